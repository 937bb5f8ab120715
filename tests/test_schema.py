"""Values and command-line texts against annotations."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Optional, TypedDict

import pytest

from jaxfer import schema
from jaxfer.errors import InputError


@pytest.mark.parametrize(
    ("value", "annotation", "wanted"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (0.5, float, 0.5),
        (True, bool, True),
        ("a", str, "a"),
        (None, float | None, None),
        (1, float | None, 1.0),
        (1, Optional[float], 1.0),  # noqa: UP045  (a plugged-in file may be written so)
        ([1, 2], tuple[int, ...], (1, 2)),
        ((), tuple[int, ...], ()),
        ([8, 8, 3], tuple[int, int, int], (8, 8, 3)),
        ([["a", 1]], tuple[tuple[str, float], ...], (("a", 1.0),)),
        ({"a": 1}, Mapping[str, float], {"a": 1.0}),
        ({"a": [1]}, Mapping[str, Any], {"a": [1]}),
        (object, Any, object),
        (schema.LARGEST, int, 2147483647),
        (sys.float_info.max, float, sys.float_info.max),
    ],
)
def test_check(value, annotation, wanted):
    found = schema.check(value, annotation, "config.x")
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        (1.0, int, "expected int, found 1.0 (float)"),
        (True, int, "expected int, found True (bool)"),
        (True, float, "expected float, found True (bool)"),
        (1, bool, "expected bool (true or false), found 1 (int)"),
        ("1", int, "expected int, found '1' (str)"),
        (1, str, "expected str, found 1 (int)"),
        (None, int, "expected int, found None (NoneType)"),
        ("a", tuple[str, ...], "expected tuple[str, ...], found 'a' (str)"),
        ((1, 2), tuple[int, int, int], "expected tuple[int, int, int], found 2 values (1, 2)"),
        (3, Mapping[str, float], "expected names with values, found 3 (int); set config.x.NAME"),
        (float("nan"), float, "expected a finite number, found nan"),
        (float("-inf"), float, "expected a finite number, found -inf"),
        (10**400, float, f"expected a finite number, found {10**400}"),
        (2**31, int, "expected an integer of at most 2147483647, found 2147483648"),
    ],
)
def test_check_refuses(value, annotation, message):
    with pytest.raises(InputError) as error:
        schema.check(value, annotation, "config.x")
    assert str(error.value) == f"config.x: {message}"


class Inner(TypedDict):
    n: int


class Fields(TypedDict, total=False):
    name: str | None
    size: int | tuple[int, ...]
    inner: Inner


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, None),
        ({"name": None, "size": [1, 2], "inner": {"n": 1, "more": "x"}, "unknown": object}, None),
        ({"size": 3}, None),
        ({"name": 3}, "file: name: expected str, found 3 (int)"),
        ({"size": "x"}, "file: size: expected int or tuple[int, ...], found 'x' (str)"),
        ({"size": None}, "file: size: expected int or tuple[int, ...], found None (NoneType)"),
        ({"inner": [1]}, "file: inner: expected names with values, found [1] (list)"),
        ({"inner": {}}, "file: inner.n: expected int, found nothing"),
        ({"inner": {"n": True}}, "file: inner.n: expected int, found True (bool)"),
    ],
)
def test_check_fields(content, message):
    if message is None:
        schema.check_fields(content, Fields, "file: ")
        return
    with pytest.raises(InputError) as error:
        schema.check_fields(content, Fields, "file: ")
    assert str(error.value) == message


def test_check_says_which_item():
    with pytest.raises(InputError, match=r"^config\.x\[1\]\[0\]: expected str, found 2 \(int\)$"):
        schema.check([("a", 1), (2, 1)], tuple[tuple[str, float], ...], "config.x")
    with pytest.raises(InputError, match=r"^config\.x\.b: expected float, found 'c' \(str\)$"):
        schema.check({"a": 1, "b": "c"}, Mapping[str, float], "config.x")


@pytest.mark.parametrize(
    ("text", "annotation", "wanted"),
    [
        ("3", int, 3),
        (" 3", int, 3),
        ("1_000", int, 1000),
        ("-3", int, -3),
        ("1e-3", float, 0.001),
        ("3", float, 3.0),
        ("none", float | None, None),
        ("None", float | None, None),
        ("0.1", float | None, 0.1),
        ("true", bool, True),
        ("False", bool, False),
        ("none", str, "none"),
        ("", str, ""),
        ("1", str, "1"),
        ("a,b", tuple[str, ...], ("a", "b")),
        ("a,b", tuple[str, ...] | None, ("a", "b")),
        ("skip", int | str | None, "skip"),
        ("3", int | str | None, 3),
        ("none", int | str | None, None),
        ("5, 6,", tuple[str, ...], ("5", "6")),
        ("", tuple[str, ...], ()),
        ("('a', 'b,c')", tuple[str, ...], ("a", "b,c")),
        ("['a']", tuple[str, ...], ("a",)),
        ("(stem|block_0)/.*,[hk]ead/.*", tuple[str, ...], ("(stem|block_0)/.*", "[hk]ead/.*")),
        ("crop, cutout(a=2, b=9),flip", tuple[str, ...], ("crop", "cutout(a=2, b=9)", "flip")),
        ("8,8,3", tuple[int, int, int], (8, 8, 3)),
        ("(8, 8, 3)", tuple[int, int, int], (8, 8, 3)),
        ("2", tuple[int, ...], (2,)),
        ("(2)", tuple[int, ...], (2,)),
        ("2,", tuple[int, ...], (2,)),
        ("", tuple[int, ...], ()),
        ("()", tuple[int, ...], ()),
        ("(('stem/.*', 1),)", tuple[tuple[str, float], ...], (("stem/.*", 1.0),)),
        ("('stem/.*', 1),('.*', 2)", tuple[tuple[str, float], ...], (("stem/.*", 1.0), (".*", 2.0))),
        ("{'a': 1}", Mapping[str, float], {"a": 1.0}),
        ("1,2", tuple[float, ...] | str | None, (1.0, 2.0)),
        ("a", tuple[float, ...] | str | None, "a"),
        ("none", tuple[float, ...] | str | None, None),
    ],
)
def test_parse(text, annotation, wanted):
    found = schema.parse(text, annotation, "config.x")
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("text", "annotation", "message"),
    [
        ("", int, "expected int, found '' (str)"),
        ("many", int, "expected int, found 'many' (str)"),
        ("1e3", int, "expected int, found 1000.0 (float)"),
        ("none", int, "expected int, found 'none' (str)"),
        ("", float, "expected float, found '' (str)"),
        ("NaN", float, "expected a finite number, found nan"),
        ("-inf", float, "expected a finite number, found -inf"),
        ("1e400", float, "expected a finite number, found inf"),
        ("1", bool, "expected bool (true or false), found 1 (int)"),
        ("yes", bool, "expected bool (true or false), found 'yes' (str)"),
        ("a,b", tuple[int, ...], "expected tuple[int, ...], found 'a,b' (str)"),
        ("1,2", tuple[int, int, int], "expected tuple[int, int, int], found 2 values (1, 2)"),
        ("print(1)", float, "expected float, found 'print(1)' (str)"),
        ("(" * 300, int, f"expected int, found {'(' * 300!r} (str)"),
    ],
)
def test_parse_refuses(text, annotation, message):
    with pytest.raises(InputError) as error:
        schema.parse(text, annotation, "config.x")
    assert str(error.value) == f"config.x: {message}"

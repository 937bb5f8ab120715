"""Rooms: what is found by file, and the schema of a factory's signature."""

from __future__ import annotations

import dataclasses
import sys

import pytest

import jaxfer.methods
from jaxfer import config as config_module
from jaxfer.errors import InputError
from jaxfer.registry import ADDS, METHODS, MODELS, SOURCES, TASKS, Room, copied

DROPPED = '''
from __future__ import annotations

from jaxfer.method import FROZEN, Method


def method(port, *, strength: int = 3, names: tuple[str, ...] = ("a",)):
    """A method dropped into the room: the head alone, and an hparam."""
    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", FROZEN)), hparams={"lr": (0.5, (0.5,)), "pull": (0.1, (0.1,))}
    )
'''


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A room of its own: two members, shared code and a private file."""
    package = tmp_path / "a_room"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("def thing(base=0, *, a: int = 1, b: float = 2.0):\n    return [base, a, b]\n")
    (package / "two.py").write_text("def thing(*, required: int, c=None):\n    return c\n")
    (package / "shared.py").write_text("HELP = 1\n")
    (package / "_private.py").write_text("def thing():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield Room("thing", "a_room", "thing")
    for name in [name for name in sys.modules if name.split(".")[0] == "a_room"]:
        del sys.modules[name]


@pytest.fixture
def dropped(tmp_path, monkeypatch):
    """`dropped.py` in jaxfer/methods, as far as Python can tell."""
    (tmp_path / "dropped.py").write_text(DROPPED)
    monkeypatch.setattr(jaxfer.methods, "__path__", [*jaxfer.methods.__path__, str(tmp_path)])
    yield "dropped"
    sys.modules.pop("jaxfer.methods.dropped", None)


def test_the_rooms_hold_what_the_house_promises():
    assert {"full", "probe", "l2sp", "lora"} <= set(METHODS.names())
    assert {"resnet", "vit"} <= set(MODELS.names())
    assert {"classification", "regression"} <= set(TASKS.names())
    assert {"digits", "npz", "folder", "synthetic"} <= set(SOURCES.names())


def test_shared_code_is_no_member(room):
    assert room.names() == ("one", "two")
    assert not {"chain", "layers", "port"} & set(MODELS.names())


def test_listing_imports_nothing(room, tmp_path):
    (tmp_path / "a_room" / "loud.py").write_text("raise SystemExit('imported')\n\n\ndef thing():\n    return 1\n")
    assert room.names() == ("loud", "one", "two")
    assert not [name for name in sys.modules if name.startswith("a_room.")]


def test_only_a_def_at_the_top_of_a_file_makes_a_member(room, tmp_path):
    folder = tmp_path / "a_room"
    (folder / "nested.py").write_text("class A:\n    def thing(self):\n        pass\n")
    (folder / "longer.py").write_text("def things():\n    pass\n\n\nthing = things\n")
    (folder / "not-a-name.py").write_text("def thing():\n    pass\n")
    (folder / "folder.py").mkdir()
    (folder / "gone.py").symlink_to("nowhere.py")
    (folder / "wrapped.py").write_text("import functools\n\n\n@functools.cache\ndef thing():\n    return 7\n")
    assert room.names() == ("one", "two", "wrapped")
    assert room.make("wrapped") == 7


THING = "\n\n\ndef thing():\n    return 1\n"

# {what is wrong: (a file's text, what the error says of it)}
BROKEN = {
    "syntax": ("def thing(:\n    return 1\n", r"SyntaxError \(invalid syntax\) in .*/broken\.py, line 1"),
    "indentation": (THING + "   x = 1\n", r"IndentationError \(unindent does not .*\) in .*/broken\.py, line 6"),
    "absent module": (
        "import os\n\nimport no_such_module" + THING,
        r"ModuleNotFoundError \(No module named 'no_such_module'\) in .*/broken\.py, line 3",
    ),
    "absent name": (
        "from a_room.one import nothing" + THING,
        r"ImportError \(cannot import name 'nothing' from 'a_room\.one' .*\) in .*/broken\.py, line 1",
    ),
    "any exception": (THING + "\n\nassert False\n", r"AssertionError \(no message\) in .*/broken\.py, line 8"),
    "shared code": (
        "from a_room import _wrong" + THING,
        r"ZeroDivisionError \(division by zero\) in .*/_wrong\.py, line 2",
    ),
    "a def in a string": (
        f'"""{THING}"""\n',
        r"AttributeError \(module 'a_room\.broken' has no attribute 'thing'\) in broken\.py",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_line_when_asked_for_and_stops_no_other(room, tmp_path, case):
    text, message = BROKEN[case]
    (tmp_path / "a_room" / "_wrong.py").write_text("x = 0\n1 / x\n")
    (tmp_path / "a_room" / "broken.py").write_text(text)
    assert room.names() == ("broken", "one", "two")
    assert room.make("one") == [0, 1, 2.0]
    with pytest.raises(InputError, match="unknown thing 'oen'; nearest: 'one'"):
        room.get("oen")
    for ask in (room.get, room.schema, room.make):
        with pytest.raises(InputError, match=f"^expected thing 'broken' to import, found {message}; correct it$"):
            ask("broken")


def test_schema_is_the_keyword_only_parameters_with_a_default(room):
    assert room.schema("one") == {"a": (int, 1), "b": (float, 2.0)}
    assert list(room.schema("two")) == ["c"]


def test_the_same_arguments_give_the_same_object(room):
    assert room.make("one", 5, b=3.0, a=2) == [5, 2, 3.0]
    assert room.make("one", 5, b=3.0, a=2) is room.make("one", 5, a=2, b=3.0)
    assert room.make("one", 5, a=2) is not room.make("one", 5, a=3)


def test_a_room_that_is_not_shared_makes_its_products_anew(room):
    anew = dataclasses.replace(room, shared=False)
    assert anew.make("one", 5, b=3.0) == anew.make("one", 5, b=3.0) == [5, 1, 3.0]
    assert anew.make("one", 5) is not anew.make("one", 5)
    assert [room.shared for room in (METHODS, MODELS, TASKS, SOURCES)] == [True, True, True, False]


@pytest.mark.parametrize("name", ["three", "shared", "_private", "", "../one", "one.thing", "ONE", None, 3])
def test_an_unknown_name_is_one_line(room, name):
    with pytest.raises(InputError, match="^unknown thing ") as error:
        room.get(name)
    assert "'one'" in str(error.value) or "known: one, two" in str(error.value)


def test_a_file_dropped_into_the_room_is_found(dropped):
    assert dropped in METHODS.names()
    assert METHODS.schema(dropped) == {"strength": (int, 3), "names": (tuple[str, ...], ("a",))}


def test_a_dropped_method_is_set_from_the_command_line(dropped):
    base = config_module.base()
    overrides = {"method": dropped, "options.strength": "7", "options.names": "x,y", "options.pull": "2"}
    (_, stage), *_ = config_module.resolve(config_module.override(base, overrides)).stages
    assert stage.method == dropped
    assert stage.options == {"strength": 7, "names": ("x", "y"), "pull": 2.0}


def test_a_dropped_file_is_suggested_for_a_misspelling(dropped):
    with pytest.raises(InputError, match="unknown method 'droped'; nearest: 'dropped'"):
        METHODS.get("droped")


def test_the_room_forgets_a_file_that_is_gone():
    assert "dropped" not in METHODS.names()


def test_an_add_on_in_place_of_a_method_says_how_to_write_it():
    with pytest.raises(InputError, match="'tent' is an add-on, .*: --config.method=full --config.adds=tent$"):
        METHODS.get("tent")
    with pytest.raises(InputError, match="'lora' is a method, and config.adds .* alone: --config.method=lora$"):
        ADDS.get("lora")
    with pytest.raises(InputError, match="unknown add-on 'tend'; nearest: 'tent'"):
        ADDS.get("tend")


def test_the_rooms_of_a_folder_are_copied_and_nothing_else(tmp_path):
    ours, there = tmp_path / "ours", tmp_path / "there"
    for name, text in [("methods/mine.py", DROPPED), ("methods/_shared.py", ""), ("tasks/notes.py", ""), ("x.txt", "")]:
        (ours / name).parent.mkdir(parents=True, exist_ok=True)
        (ours / name).write_text(text)
    copied(str(ours), there)
    files = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()}
    assert files == {"methods/mine.py", "methods/_shared.py"}, "a folder without a task is no room"

"""Type checks of config values against annotations, and parsing of `--config.x=TEXT`."""

from __future__ import annotations

import ast
import contextlib
import re
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from jaxfer.errors import InputError

# Step counters and array sizes are 32-bit on every backend: a larger number would fail later, or wrap.
LARGEST = 2**31 - 1

_MAPPINGS = (dict, typing.get_origin(Mapping[str, Any]))


def check(value: Any, annotation: Any, where: str) -> Any:
    """The value converted to its annotation (an int to a float, a list to a tuple); `InputError` if it can't be."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        choices = [arg for arg in args if arg is not type(None)]
        if len(choices) == 1:
            return check(value, choices[0], where)
        for choice in choices:
            with contextlib.suppress(InputError):
                return check(value, choice, where)
        raise InputError(f"{where}: expected {_name(annotation)}, found {_shown(value)}")
    if typing.is_typeddict(annotation):
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected {_name(annotation)}, found {_shown(value)}")
        check_fields(value, annotation, f"{where}.")
        return value
    if origin is tuple and isinstance(value, (tuple, list)):
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(inner) != len(value):
            raise InputError(f"{where}: expected {_name(annotation)}, found {len(value)} values {tuple(value)!r}")
        return tuple(check(v, a, f"{where}[{i}]") for i, (v, a) in enumerate(zip(value, inner, strict=True)))
    if origin in _MAPPINGS and isinstance(value, Mapping):
        return {check(k, args[0], where): check(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if annotation is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not abs(value) <= sys.float_info.max:
            raise InputError(f"{where}: expected a finite number, found {value}")
        return float(value)
    if annotation is int and type(value) is int and abs(value) > LARGEST:
        raise InputError(f"{where}: expected an integer of at most {LARGEST}, found {value}")
    if isinstance(annotation, type) and isinstance(value, annotation) and (annotation is bool) == (type(value) is bool):
        return value
    fix = f"; set {where}.NAME" if origin in _MAPPINGS and " " not in where else ""
    raise InputError(f"{where}: expected {_name(annotation)}, found {_shown(value)}{fix}")


def check_fields(content: Mapping[str, Any], fields: type, prefix: str) -> None:
    """`InputError` unless every field that a TypedDict declares has its type; a required one must be there."""
    for name, annotation in typing.get_type_hints(fields).items():
        if name in content:
            check(content[name], annotation, f"{prefix}{name}")
        elif name in fields.__required_keys__:
            raise InputError(f"{prefix}{name}: expected {_name(annotation)}, found nothing")


def parse(text: str, annotation: Any, where: str) -> Any:
    """Parses command-line text: `--config.lr=1e-3`, `--config.freeze=stem/.*,block_0/.*`, `--config.lr=none`."""
    args = typing.get_args(annotation)
    if type(None) in args:
        if text.lower() == "none":
            return None
        first, *others = (arg for arg in args if arg is not type(None))
        for choice in (first, *others) if others else ():
            with contextlib.suppress(InputError):
                return parse(text, choice, where)
        annotation, args = first, typing.get_args(first)
    if annotation is str:
        return text
    if annotation is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if typing.get_origin(annotation) is tuple:
        return check(_sequence(text, args[0]), annotation, where)
    return check(_literal(text), annotation, where)


def _sequence(text: str, inner: Any) -> Any:
    """Parses `a,b`, `(1, 2)`, `[3]` or an empty text; a pattern may begin like a tuple: `(stem|block_0)/.*`."""
    bare = text.strip()
    value = _literal(bare) if bare.startswith(("(", "[")) else None
    if isinstance(value, (tuple, list)):
        return value
    if inner is str:
        # Not at a comma between parentheses: `crop,randaugment(ops=2, magnitude=9)`.
        return tuple(part.strip() for part in re.split(r",(?![^()]*\))", bare) if part.strip())
    value = _literal(f"({bare.rstrip(', ')},)") if bare else ()
    return text if isinstance(value, str) else value


def _literal(text: str) -> Any:
    """Parses a Python literal, `nan` or `inf`; other text is returned as it is, for `check` to judge."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return float(text) if re.fullmatch(r"\s*[+-]?(nan|inf|infinity)\s*", text, re.IGNORECASE) else text


def _shown(value: Any) -> str:
    """The value and its type, shortened to stay on a line."""
    try:
        text = repr(value)
    except RecursionError:
        text = "a deeply nested value"
    return f"{text if len(text) <= 500 else text[:500] + '...'} ({type(value).__name__})"


def _name(annotation: Any) -> str:
    if annotation is bool:
        return "bool (true or false)"
    if typing.get_origin(annotation) in _MAPPINGS or typing.is_typeddict(annotation):
        return "names with values"
    if isinstance(annotation, types.UnionType):
        return " or ".join(_name(arg) for arg in typing.get_args(annotation) if arg is not type(None))
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")

"""The entries of `config.data.augment`: a name, or a name with options, `randaugment(ops=2, magnitude=9)`.

An entry is one string. So a list of them is a field of names like any other, for ml-collections, the command line, a
sweep and `config.json`; an augmentation may occur twice with other options; and a name alone is what it was before
there were options. The options' names, types and bounds are in the table of augmentations.
"""

from __future__ import annotations

import ast
import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jaxfer.data.encodings.augment.augmentation import Augmentation, Change, Rectangle, Size, check_colours
from jaxfer.data.encodings.augment.colour import COLOUR
from jaxfer.data.encodings.augment.erasing import ERASING
from jaxfer.data.encodings.augment.geometry import GEOMETRY, cut
from jaxfer.data.encodings.augment.policies import POLICIES
from jaxfer.data.encodings.augment.rewriting import REWRITING
from jaxfer.data.encodings.augment.sound import SOUND
from jaxfer.data.encodings.augment.token import TOKEN
from jaxfer.errors import InputError, nearest

AUGMENTATIONS: dict[str, Augmentation] = {**GEOMETRY, **COLOUR, **POLICIES, **ERASING, **SOUND, **TOKEN, **REWRITING}


@dataclass(frozen=True, eq=False)
class Entry:
    """An augmentation with options.

    Attributes:
      name: in `AUGMENTATIONS`.
      kind: what it is.
      options: all of them, in the table's order.
    """

    name: str
    kind: Augmentation
    options: dict[str, float | str]

    def __str__(self) -> str:
        set_ = {name: value for name, value in self.options.items() if value != self.kind.options[name][0]}
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in set_.items())})" if set_ else self.name

    def rectangle(self, rng: np.random.Generator, size: Size) -> Rectangle:
        """What a crop cuts out of an image of this (height, width)."""
        return self.kind.rectangle(rng, size, **self.options)

    def changes(self, rng: np.random.Generator, size: Size) -> tuple[Change, ...]:
        """What is done to an example of this size."""
        options = dict(self.options)
        p = options.pop("p", 1.0)
        if self.kind.draw is None:  # of what was rewritten before
            return ()
        if p < 1 and rng.random() >= p:
            return ()
        return self.kind.draw(rng, size, **options)


def augmentations(entries: Iterable[str]) -> tuple[Entry, ...]:
    """The checked entries of `config.data.augment`.

    Raises:
      InputError: an unknown name or option, a value of another type or out of range, or one out of its place.
    """
    return _augmentations(tuple(entries))


@functools.lru_cache(maxsize=256)  # asked for each example
def _augmentations(entries: tuple[str, ...]) -> tuple[Entry, ...]:
    parsed = tuple(_entry(entry) for entry in entries)
    for entry, after in itertools.pairwise(parsed):
        if entry.kind.last and not after.kind.last:
            acts = f"{entry.name} acts on the model's input, after everything else"
            raise InputError(f"data.augment: {acts}, found it before {after.name}; move it to the end")
    return parsed


def canonical(entries: Iterable[str]) -> tuple[str, ...]:
    """The entries as they are recorded: without options that have their default, in the table's order and spelling."""
    return tuple(str(entry) for entry in augmentations(entries))


def finish(values: np.ndarray, entries: Iterable[Entry], rng: np.random.Generator) -> None:
    """What comes last, in place on the model's input, with the generator as the other entries leave it."""
    for entry in entries:
        if entry.kind.last:
            for change in entry.changes(rng, values.shape[:2]):
                values[:] = change.apply(values, "nearest")


def applied(
    image: np.ndarray, entries: Iterable[Entry], rng: np.random.Generator, filter: str = "bilinear", mask: bool = False
) -> np.ndarray:
    """An image [h, w, c] after these entries, which act on pixels: its shape and type stay.

    Args:
      image: on 0..255; left as it is.
      entries: in this order; those that act on normalised pixels are passed over.
      rng: of the example.
      filter: for what resamples, a name in `pixels.INTERPOLATIONS`.
      mask: whether it is a mask: what moves no pixel is drawn and left out.
    """
    size = image.shape[:2]
    for entry in entries:
        if entry.kind.colours and not mask:
            check_colours(entry.name, image)
        if entry.kind.rectangle:
            image = cut(image, entry.rectangle(rng, size), size, filter)
        elif not entry.kind.last:
            for change in entry.changes(rng, size):
                image = image if mask and not change.moves else change.apply(image, filter)
    return image


def _entry(text: str) -> Entry:
    name, opened, _ = str(text).partition("(")
    name = name.strip()
    if name not in AUGMENTATIONS:
        raise InputError(f"unknown augmentation {name!r}{nearest(name, AUGMENTATIONS)}")
    kind = AUGMENTATIONS[name]
    given = _options(str(text)) if opened else {}
    for option, value in given.items():
        if option not in kind.options:
            raise InputError(f"data.augment: {name} has no option {option!r}{nearest(option, kind.options)}")
        default, least, most = kind.options[option]
        if type(value) is not type(default) and (isinstance(default, str) or type(value) is not int):
            expected = {int: "an integer", str: "a text in quotes"}.get(type(default), "a number")
            raise InputError(f"data.augment: {name} expects {expected} as {option}, found {value!r}")
        if not isinstance(value, str) and not least <= value <= most:
            raise InputError(f"data.augment: {name} expects {option} from {least:g} to {most:g}, found {value}")
    values = {option: type(default)(given.get(option, default)) for option, (default, _, _) in kind.options.items()}
    if values.get("low", 0) > values.get("high", 1):
        found = f"{values['low']:g} and {values['high']:g}"
        raise InputError(f"data.augment: {name} expects low of at most high, found {found}; set both")
    return Entry(name, kind, values)


def _options(text: str) -> dict[str, object]:
    """{option: value} of `name(option=value, ...)`."""
    expected = f"data.augment: expected NAME or NAME(OPTION=VALUE, ...), found {text!r}"
    try:
        call = ast.parse(text.strip(), mode="eval").body
        plain = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
        found = [(keyword.arg, ast.literal_eval(keyword.value)) for keyword in call.keywords] if plain else [(None, 0)]
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise InputError(expected) from None
    if None in dict(found):
        raise InputError(expected)
    if len(dict(found)) < len(found):
        raise InputError(f"data.augment: expected each option once, found {text!r}")
    return dict(found)

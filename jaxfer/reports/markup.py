"""HTML and SVG as strings that can't be broken by what users call things: whatever is no `Markup` is escaped."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable

_TURNING = frozenset(["LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"])


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(value: object) -> Markup:
    """A value as text of a page, or of an attribute.

    Control codes, marks that turn the direction of writing, and halves of characters become U+FFFD: no file name may
    hide what stands beside it.
    """
    if isinstance(value, Markup):
        return value
    return Markup(html.escape("".join(c if _plain(c) else "\N{REPLACEMENT CHARACTER}" for c in str(value))))


def _plain(character: str) -> bool:
    category = unicodedata.category(character)
    if category == "Cf":
        return unicodedata.bidirectional(character) not in _TURNING
    return category not in ("Cc", "Cs") or character in "\n\t"


def joined(parts: Iterable[object], between: str = "") -> Markup:
    """The parts one after the other, escaped where they are no markup."""
    return Markup(between.join(escaped(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """`<name attribute="value">children</name>`.

    `class_` is the attribute `class`, and `_` within a name is `-`; None leaves an attribute out, True gives it no
    value.
    """
    given = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    written = "".join(f" {key}" if value is True else f' {key}="{escaped(value)}"' for key, value in given)
    if name in ("meta", "img", "br"):
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(children)}</{name}>")

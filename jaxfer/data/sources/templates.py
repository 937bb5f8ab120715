"""Texts made of several columns: `{title}. {body}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jaxfer.data.sources.labels import readable
from jaxfer.data.sources.rows import Bad

_COLUMN = re.compile(r"\{([^{}]+)\}")


def columns(template: str) -> tuple[str, ...]:
    """The columns that a template names, in order, each once."""
    return tuple(dict.fromkeys(_COLUMN.findall(template)))


def filled(template: str, record: Mapping[str, Any]) -> str:
    """The template with a row's fields; raises `Bad` where a column is missing, or all fields are empty.

    A column's name stands for its field alone: nothing else in the braces has a meaning.
    """
    fields = {}
    for column in columns(template):
        if column not in record:
            raise Bad(f"has no {column!r}")
        fields[column] = "" if record[column] is None else readable(str(record[column]))
    if not any(field.strip() for field in fields.values()):
        raise Bad(f"has no text in {', '.join(map(repr, fields))}")
    return _COLUMN.sub(lambda found: fields[found[1]], template)

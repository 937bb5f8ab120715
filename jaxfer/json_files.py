"""JSON files, checked against a schema where they are read: whoever uses a field may trust its type."""

from __future__ import annotations

import json
import os
from typing import Any

from etils import epath

from jaxfer import schema
from jaxfer.errors import InputError


def read(
    path: epath.Path, fields: type | None = None, *, fix: str, damaged: str = "no readable JSON"
) -> dict[str, Any]:
    """The object in a JSON file, as it stands; the fields that `fields` declares have their types.

    Args:
      path: the file.
      fields: a TypedDict; fields that it does not declare are left unchecked. None: none are checked.
      fix: what to do about a damaged file, the tail of the error.
      damaged: what to call one that can't be read.

    Raises:
      InputError: no JSON object, or a field that is missing or of another type.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for ever
            raise OSError("not a regular file")
        text = path.read_text()
        content = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(content, ensure_ascii=False).encode()  # a lone surrogate could not be printed or written later
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else _line(error)
        raise InputError(f"{path}: {damaged} ({reason}); {fix}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found a {type(content).__name__}; {fix}")
    if fields is not None:
        check(content, fields, str(path), fix=fix)
    return content


def check(content: dict[str, Any], fields: type, where: str, *, fix: str) -> None:
    """`InputError` unless the fields that a TypedDict declares have their types; the others may be anything."""
    try:
        schema.check_fields(content, fields, f"{where}: ")
    except InputError as error:
        raise InputError(f"{error}; {fix}") from None


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

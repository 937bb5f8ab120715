"""JSON files, checked against a schema on reading, so that callers can trust the types of the fields."""

from __future__ import annotations

import json
import os
from typing import Any

from etils import epath

from jaxfer import schema
from jaxfer.errors import InputError


def read(
    path: epath.Path, fields: type | None = None, *, fix: str, damaged: str = "not readable as JSON"
) -> dict[str, Any]:
    """The object in a JSON file; the types of the declared `fields` are checked.

    Args:
      path: the file.
      fields: a TypedDict; fields that it does not declare are left unchecked. None: none are checked.
      fix: what to do about a damaged file, the tail of the error.
      damaged: how the error calls an unreadable file.

    Raises:
      InputError: no JSON object, or a field that is missing or of another type.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would block
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
    """`InputError` unless the fields a TypedDict declares have their types; other fields are not checked."""
    try:
        schema.check_fields(content, fields, f"{where}: ")
    except InputError as error:
        raise InputError(f"{error}; {fix}") from None


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

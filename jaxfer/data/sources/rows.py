"""Rows of .csv, .tsv, .jsonl, .parquet and .arrow files.

Each is a mapping from column to field, or the reason it can't be read.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxfer.data.sources import arrow
from jaxfer.errors import InputError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
FORMATS = (*DELIMITERS, ".jsonl", *arrow.SUFFIXES)
SHOWN = 3  # bad rows in a message
ESCAPES = {"\\t": "\t", "tab": "\t"}  # a tab is hard to type on a command line


class Bad(Exception):
    """Why a row can't be used."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The format of a table file.

    Attributes:
      columns: names of the columns of a delimited file without a header.
      delimiter: between two fields; empty follows the file's suffix.
      encoding: a Python codec of texts; `utf-8` allows a byte order mark.
      quotes: whether `"` quotes a field.
    """

    columns: tuple[str, ...] = ()
    delimiter: str = ""
    encoding: str = "utf-8"
    quotes: bool = True

    def check(self) -> Dialect:
        """The dialect with `\\t` and `tab` replaced; `InputError` for an invalid option."""
        delimiter = ESCAPES.get(self.delimiter, self.delimiter)
        if len(delimiter) > 1 or delimiter in ('"', "\n", "\r", "\0"):
            raise InputError(
                f"expected data.delimiter to be one character such as ',', ';' or '\\t', found {self.delimiter!r}"
            )
        try:
            io.TextIOWrapper(io.BytesIO(), encoding=self.encoding)
        except (LookupError, ValueError) as error:
            reason = str(error).partition(";")[0]
            raise InputError(
                f"data.encoding={self.encoding!r}: {reason}; expected utf-8, utf-16, latin-1, cp1252, ..."
            ) from None
        encoding = "utf-8-sig" if codecs.lookup(self.encoding).name == "utf-8" else self.encoding
        return Dialect(columns=self.columns, delimiter=delimiter, encoding=encoding, quotes=self.quotes)

    def separates(self, file: Path) -> str:
        """The delimiter in this file; empty for JSON lines, .parquet and .arrow."""
        suffix = file.suffix.lower()
        if arrow.reads(file):
            return ""
        if suffix not in FORMATS and not self.delimiter:
            fix = "rename or convert it, or set data.delimiter"
            raise InputError(f"expected a {', '.join(FORMATS)} file, found {str(file)!r}; {fix}")
        return "" if suffix == ".jsonl" else self.delimiter or DELIMITERS[suffix]


def records(file: Path, dialect: Dialect, text: str) -> Iterator[tuple[int, Mapping[str, Any] | Bad]]:
    """(line, {column: field} or the reason it is bad) of each row; blank lines are skipped.

    Of .parquet and .arrow files, where the number is the row's, columns of bytes are left out.

    Args:
      file: a file that `dialect.separates` knows.
      dialect: as `check` returned it.
      text: where not empty: a first row with this name among its fields, and another number of fields than
        `dialect.columns`, is a header of the file's own (CoLA's test.tsv has one, its other files have none).

    Raises:
      InputError: the file is in another encoding, its quotes don't close, or its header doesn't name its columns.
    """
    delimiter = dialect.separates(file)
    if arrow.reads(file):
        yield from arrow.records(file)
        return
    try:
        with open(file, encoding=dialect.encoding, newline="") as lines:
            yield from _delimited(lines, file, dialect, delimiter, text) if delimiter else _json_lines(lines)
    except UnicodeError as error:
        raise InputError(_undecodable(file, dialect.encoding, error)) from None


def _json_lines(lines: Iterator[str]) -> Iterator[tuple[int, Mapping[str, Any] | Bad]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            yield number, Bad("is not valid JSON")
        else:
            yield number, record if isinstance(record, dict) else Bad("is not a JSON object")


def _delimited(
    lines: Iterator[str], file: Path, dialect: Dialect, delimiter: str, text: str
) -> Iterator[tuple[int, Mapping[str, Any] | Bad]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # documents are longer than the 128 KiB it starts with
    quoting = csv.QUOTE_MINIMAL if dialect.quotes else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    header: Sequence[str] = dialect.columns
    try:
        for number, fields in enumerate(filter(None, reader)):
            names = [name.strip() for name in fields] if number == 0 else []
            if names and (not header or (text and text in names and len(names) != len(header))):
                header = names
            elif names and tuple(fields) == header:
                raise InputError(f"{str(file)!r} has a header with these columns already; remove data.columns")
            elif len(fields) != len(header):
                yield reader.line_num, Bad(f"has {len(fields)} fields for {len(header)} columns")
            else:
                yield reader.line_num, dict(zip(header, fields, strict=True))
            if number == 0 and len(set(filter(None, header))) < len(list(filter(None, header))):
                fix = "rename them, or set data.columns if there is no header"
                raise InputError(
                    f"expected columns of different names in {str(file)!r}, found {', '.join(header)}; {fix}"
                )
    except csv.Error as error:
        fix = "correct it"
        if dialect.quotes:
            fix = "close the quote, or set data.quotes=false if quotes are ordinary characters"
        raise InputError(f"{file.name}:{reader.line_num} of {str(file)!r} can't be read ({error}); {fix}") from None


def allowed(bad_rows: int | str | None) -> float:
    """How many bad rows, or unreadable files, `data.bad_rows` lets a source leave out; raises `InputError`."""
    if bad_rows in (None, "stop"):
        return 0
    if bad_rows == "skip":
        return math.inf
    if isinstance(bad_rows, str) or bad_rows < 0:
        raise InputError(f"expected data.bad_rows to be a number >= 0, 'stop' or 'skip', found {bad_rows!r}")
    return bad_rows


def judged(
    bad: Sequence[str], total: int, root: Path, limit: float, noun: str = "rows", fix: str = "correct them"
) -> tuple[str, ...]:
    """Notes on the bad rows of `total` ones where up to `limit` may be left out; `InputError` where there are more."""
    if not bad:
        return ()
    shown = "; ".join(bad[:SHOWN]) + ("; ..." if len(bad) > SHOWN else "")
    summary = f"{len(bad)} of {total} {noun} in {str(root)!r} are bad ({shown})"
    if len(bad) > limit:
        raise InputError(f"{summary}; {fix}, or leave them out with data.bad_rows={len(bad)}")
    return (f"{summary} and left out",)


def _undecodable(file: Path, encoding: str, error: UnicodeError) -> str:
    """The error text for a file in another encoding: the byte, its line, and the fix."""
    name = "UTF-8" if encoding == "utf-8-sig" else encoding
    content = file.read_bytes()
    cause, fix = str(error), "latin-1 or cp1252 in Western Europe"
    try:
        content.decode(encoding)
    except UnicodeDecodeError as whole:  # of the whole file: readers decode in pieces and know no line
        line = content[: whole.start].decode(encoding, "replace").count("\n") + 1
        cause = f"byte {content[whole.start]:#x} in line {line}"
    except UnicodeError:
        pass
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        fix = "utf-16 by its first bytes"
    return f"expected {name} text in {str(file)!r}, found {cause}; set data.encoding ({fix})"

"""The file layer: local folders, gs:// and s3://, written so that a kill can't tear a file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import fsspec
from etils import epath

from jaxfer import json_files
from jaxfer.errors import InputError
from jaxfer.parallel import cluster

# Object stores, and the packages epath reads them with.
STORES = {"gs": "gcsfs", "s3": "s3fs"}
LONGEST_PATH, DEEPEST_PATH = 4095, 500  # bytes, Linux's limit; folders
# The advice for a damaged file of a run.
FIX = "restore the file, or use another --workdir"


def write_json(path: epath.Path, value: Any) -> None:
    """Writes JSON atomically: a reader sees either the old or the new file, complete."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: epath.Path, text: str) -> None:
    """Writes text atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: epath.Path, data: bytes) -> None:
    """Writes bytes atomically, on a disk through a temporary file beside it; only the first process writes."""
    if not cluster.leader():
        return
    path = epath.Path(path)
    if remote(path):
        path.write_bytes(data)
        return
    with _replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def written(path: epath.Path) -> Iterator[BinaryIO]:
    """A file to be written in parts, which takes the place of another once it is whole; every process writes.

    On a disk its parts go to a temporary file beside it, for a store to this machine's folder of such.
    """
    path = epath.Path(path)
    if remote(path):
        with tempfile.NamedTemporaryFile() as file:
            yield file
            file.flush()
            # Left alone on an error, unlike a handle, which would keep what it had so far.
            fsspec.filesystem(str(path).partition("://")[0]).put_file(file.name, str(path))
        return
    with _replacing(path) as temporary, temporary.open("wb") as file:
        yield file


@contextlib.contextmanager
def _replacing(path: epath.Path) -> Iterator[epath.Path]:
    """A temporary path beside this one: its file takes the other's place at the end, and is gone after an error."""
    temporary = path.parent / f".{path.name}.tmp"
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # its folder may be gone
            temporary.unlink(missing_ok=True)
        raise


def remove(path: epath.Path) -> None:
    """Removes an outdated file of the run, if it exists."""
    if cluster.leader():
        epath.Path(path).unlink(missing_ok=True)


def read_json(path: epath.Path, fields: type | None = None) -> dict[str, Any]:
    """The object in a JSON file of a run, checked against `fields` (a TypedDict); `InputError` if it is damaged."""
    return json_files.read(epath.Path(path), fields, fix=FIX, damaged="expected a JSON file of a run")


@contextlib.contextmanager
def _unlogged(package: str) -> Iterator[None]:
    """Silences warnings and errors of a store's package, which logs a traceback before it raises the error."""

    def below(record: logging.LogRecord) -> bool:  # one for each call: threads may overlap
        return record.levelno < logging.WARNING

    logger = logging.getLogger(package)
    logger.addFilter(below)
    try:
        yield
    finally:
        logger.removeFilter(below)


def opened(folder: str | epath.Path) -> epath.Path:
    """A path a run can use, on a disk or in a store; `InputError` for others and for a missing package."""
    if not isinstance(folder, (str, os.PathLike)) or not str(folder):
        raise InputError(f"expected the path of a folder, found {folder!r}")
    scheme, _, _ = str(folder).rpartition("://")
    too_long = len(os.fsencode(folder)) > LONGEST_PATH or str(folder).count("/") > DEEPEST_PATH
    if not scheme and (too_long or "\0" in str(folder)):
        raise InputError(f"{str(folder)[:80]!r}...: not a valid path on this machine; name another folder")
    if scheme and scheme not in STORES:
        raise InputError(f"{folder}: expected a folder, gs:// or s3://")
    if scheme:
        fsspec.config.conf.setdefault(scheme, {})["use_listings_cache"] = False  # another host may have written since
    try:
        path = epath.Path(folder)
        with _unlogged(STORES[scheme]) if scheme else contextlib.nullcontext():
            path.exists()
        if not scheme:
            os.stat(os.fspath(path.parent))  # for a name too long `exists` is False, `mkdir` endless
    except (FileNotFoundError, NotADirectoryError):
        pass
    except ImportError:
        raise InputError(f"{folder} needs the package {STORES[scheme]}; pip install 'jaxfer[{scheme}]'") from None
    except Exception as error:
        if not scheme:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{folder} can't be reached ({reason}); correct the bucket or your credentials") from None
    if not scheme:
        _check_name(os.path.abspath(folder))
    return path


def remote(path: epath.Path) -> bool:
    """Whether the path is in an object store (`gs://`, `s3://`), where writes are atomic and appends impossible."""
    return "://" in str(path)


def _check_name(folder: str) -> None:
    """`InputError` for a path under which a checkpoint would be written, but not be read again: TensorStore takes a
    backslash for a slash, Orbax `[...]` for a pattern, and both take UTF-8 alone."""
    utf8 = folder.encode(errors="replace").decode() == folder
    if "\\" in folder or re.search(r"\[.*\]", folder) or not utf8:
        expected = "expected a folder without \\ or [...] in its path, in UTF-8"
        raise InputError(f"checkpoints can't be kept in {folder!r}: {expected}; use another --workdir")

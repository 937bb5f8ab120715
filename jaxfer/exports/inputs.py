"""Convert the inputs of `predict` (files, texts, images, sounds) to examples; an unreadable one stops no other."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from jaxfer.data.encoding import Encoding
from jaxfer.data.encodings import wav
from jaxfer.data.encodings.image import ImageEncoding, fit
from jaxfer.data.encodings.pixels import decode
from jaxfer.data.encodings.text import texts
from jaxfer.data.split import Column
from jaxfer.errors import InputError

TABLES = (".csv", ".jsonl")  # their lines are not texts; lines of a .tsv may be pairs
AS_PNG = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")  # modes that a PNG can store; others are converted to RGB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """Inputs in order.

    Attributes:
      names: the name of each input in its answer.
      errors: {position: why the input can't be read}.
      column: the readable inputs, in order.
    """

    names: tuple[str, ...]
    errors: Mapping[int, str]
    column: Column


def listed(inputs: Any) -> list[Any]:
    """The inputs as a list: a single file, text, image or array becomes a list of one, [n, h, w, c] n images.

    Raises:
      InputError: unsupported inputs.
    """
    one_array = isinstance(inputs, np.ndarray) and inputs.ndim in (0, 2, 3)
    if one_array or isinstance(inputs, (str, os.PathLike, Image.Image)):
        return [inputs]
    if isinstance(inputs, Iterable) and not isinstance(inputs, (bytes, Mapping)):
        return list(inputs)
    raise InputError(f"inputs: expected a file, a text, an image or a list of them, found {_shown(inputs)}")


def collected(inputs: Any, encoding: Encoding, *, text: bool = False) -> Inputs:
    """What `predict` was given, as the model's encoding reads it.

    Args:
      inputs: one or a list of them.
      encoding: the model's.
      text: whether the inputs are the texts themselves, not files of them.

    Raises:
      InputError: inputs of the wrong kind, or a model that reads neither texts, images nor sounds.
    """
    inputs = listed(inputs)
    if encoding.column == "text":
        return phrases(inputs) if text else text_files(inputs)
    if text:
        raise InputError(f"--text: the model reads {encoding.noun}; give files of them")
    if encoding.column in FILES:
        return FILES[encoding.column](inputs, encoding)
    fix = "`jaxfer eval` scores it on its data"
    raise InputError(f"predict reads texts, images and sounds, the model {encoding.noun}; {fix}")


def images(inputs: Sequence[Any], encoding: ImageEncoding) -> Inputs:
    """Checks and collects image files, uint8 arrays [h, w, channels] or [h, w], and Pillow images.

    Raises:
      InputError: an input of another type.
    """
    names, errors, sources = [], {}, []
    for i, item in enumerate(inputs):
        file = isinstance(item, (str, os.PathLike))
        source = item if file else _pixels(item, i)
        names.append(_printable(item) if file else f"input {i}")
        try:
            fit(_decoded(source), encoding)
            sources.append(source)
        except InputError as error:
            errors[i] = str(error)
    return Inputs(names=tuple(names), errors=errors, column=Decoded(tuple(sources)))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Decoded:
    """A column of arrays and of files to decode."""

    sources: tuple[Any, ...]
    kind = "image"

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, row: int) -> np.ndarray:
        return _decoded(self.sources[row])


def sounds(inputs: Sequence[Any], encoding: Encoding) -> Inputs:
    """Checks and collects .wav files, and pairs of samples on -1..1, float [n], and their rate in Hz.

    Raises:
      InputError: an input of another type.
    """
    names, errors, sources, headers = [], {}, [], []
    for i, item in enumerate(inputs):
        file = isinstance(item, (str, os.PathLike))
        names.append(_printable(item) if file else f"input {i}")
        source = Path(item) if file else _samples(item, i)
        try:
            found = wav.header(source) if file else None
        except InputError as error:
            errors[i] = str(error)
            continue
        sources.append(source if file else source[0])
        headers.append((found.rate, found.length) if file else (source[1], len(source[0])))
    rates, lengths = np.asarray(headers, np.int64).reshape(-1, 2).T
    return Inputs(names=tuple(names), errors=errors, column=Heard(tuple(sources), rates, lengths))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Heard:
    """A column of samples and of files to decode.

    Attributes:
      sources: float32 [samples], or a file, a row.
      rates: int [n], samples a second.
      lengths: int [n], samples.
    """

    sources: tuple[Any, ...]
    rates: np.ndarray
    lengths: np.ndarray
    kind = "audio"

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, row: int) -> np.ndarray:
        source = self.sources[row]
        return source if isinstance(source, np.ndarray) else wav.decode(source)


# {column: what collects its files}
FILES: dict[str, Callable[[Sequence[Any], Any], Inputs]] = {"image": images, "audio": sounds}


def text_files(inputs: Sequence[Any]) -> Inputs:
    """The non-blank lines of text files; an unreadable or empty file becomes an input with an error.

    Raises:
      InputError: an input that is not a file name, or lines with other than one or two texts.
    """
    entries: list[tuple[str, str | None]] = []
    for i, name in enumerate(inputs):
        if not isinstance(name, (str, os.PathLike)):
            raise InputError(
                f"inputs[{i}]: expected the name of a text file, found {_shown(name)}; text=True for texts"
            )
        if Path(name).suffix.lower() in TABLES:
            fix = "use --labelled if it has labels, else give its texts, one per line"
            entries.append((_printable(name), f"expected lines of text, found the table {str(name)!r}; {fix}"))
            continue
        try:
            content = Path(name).read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            fix = "; to give a text itself, use --text (text=True)" if isinstance(error, OSError) else ""
            entries.append((_printable(name), f"expected a text file, found {str(name)!r} ({reason}){fix}"))
            continue
        # Only line feeds end a line: `str.splitlines` would also split at U+2028 or a form feed.
        lines = [line for line in content.split("\n") if line.strip()]
        entries += [(line, None) for line in lines]
        if not lines:
            entries.append((_printable(name), f"expected one text per line in {str(name)!r}, found none; add some"))
    errors = {i: error for i, (_, error) in enumerate(entries) if error is not None}
    return _phrases([name for name, _ in entries], errors)


def phrases(inputs: Sequence[Any]) -> Inputs:
    """Texts or pairs of texts: a tuple of two, or two separated by a tab.

    Raises:
      InputError: an input that is not a text, or a mix of texts and pairs.
    """
    names, errors = [], {}
    for i, item in enumerate(inputs):
        parts = (item,) if isinstance(item, str) else item
        if not isinstance(parts, (tuple, list)) or not parts or not all(isinstance(part, str) for part in parts):
            raise InputError(f"inputs[{i}]: expected a text, or a pair of texts, found {_shown(item)}")
        names.append("\t".join(parts))
        try:
            names[i].encode()
        except UnicodeEncodeError:
            errors[i] = f"expected a text, found {names[i]!r}, which is not UTF-8; correct its encoding"
            names[i] = _printable(names[i])
    return _phrases(names, errors)


def _phrases(names: Sequence[str], errors: Mapping[int, str]) -> Inputs:
    parts = [name.split("\t") for i, name in enumerate(names) if i not in errors]
    counts = {len(part) for part in parts}
    if counts - {1, 2} or len(counts) > 1:
        raise InputError("expected one text on every line, or two separated by a tab on every line; found a mix")
    columns = [tuple(column) for column in zip(*parts, strict=True)] or [()]
    return Inputs(names=tuple(names), errors=errors, column=texts(*columns))


def _decoded(source: Any) -> np.ndarray:
    return source if isinstance(source, np.ndarray) else decode(source)


def _pixels(image: Any, i: int) -> np.ndarray:
    """uint8 [h, w, channels] of an array, or of a Pillow image as if read from a file."""
    if isinstance(image, Image.Image):
        buffer, image = io.BytesIO(), ImageOps.exif_transpose(image)
        (image if image.mode in AS_PNG else image.convert("RGB")).save(buffer, "PNG", compress_level=1)
        return decode(buffer.getvalue(), f"input {i}")
    if not isinstance(image, np.ndarray):
        raise InputError(f"inputs[{i}]: expected an image file, an array or a Pillow image, found {_shown(image)}")
    array = image[..., None] if image.ndim == 2 else image
    if array.dtype != np.uint8 or array.ndim != 3 or not array.size or array.shape[2] > 4:
        fix = "multiply values of 0..1 by 255 and round them"
        raise InputError(f"inputs[{i}]: expected uint8 [height, width, channels], found {_shown(image)}; {fix}")
    return array


def _samples(pair: Any, i: int) -> tuple[np.ndarray, int]:
    """(float32 [samples], Hz) of such a pair."""
    samples, rate = pair if isinstance(pair, (tuple, list)) and len(pair) == 2 else (pair, None)
    good = isinstance(samples, np.ndarray) and samples.ndim == 1 and samples.size and samples.dtype.kind == "f"
    if not good or not isinstance(rate, (int, np.integer)) or rate < 1:
        found = _shown(pair) if rate is None else f"({_shown(samples)}, {_shown(rate)})"
        raise InputError(
            f"inputs[{i}]: expected a .wav file, or (float samples [n] on -1..1, rate in Hz), found {found}"
        )
    return samples.astype(np.float32), int(rate)


def _printable(name: Any) -> str:
    """A printable name: bytes that are not UTF-8 are escaped."""
    return str(name).encode(errors="backslashreplace").decode()


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"{value!r:.60}" if isinstance(value, (str, int, float, type(None))) else f"a {type(value).__name__}"

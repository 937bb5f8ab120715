"""Options of a model family: one frozen dataclass is the schema of `config.model` and a field of the module.

A field says how it is checked by the function that makes it:

    @dataclass(frozen=True, kw_only=True)
    class Options(ImageOptions):
        width: int = size(64)
        block: str = choice("basic", ("basic", "bottleneck"))
        dropout: float = rate(0.0)

`check` holds what must go together. `training` marks options that change training alone: a run sets them freely,
whatever the checkpoint says.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxfer.data.encodings.image import ImageEncoding
from jaxfer.data.encodings.row import RowEncoding
from jaxfer.data.encodings.text import TextEncoding
from jaxfer.errors import InputError
from jaxfer.models.chain import check_choice, check_positive, check_rate, image_encoding

SHORTEST = 32  # tokens in the first default bucket

Check = Callable[[str, Any], None]


def option(default: Any, check: Check | None = None, *, training: bool = False, inputs: bool = False) -> Any:
    """A field of an options dataclass.

    Args:
      default: its default; hashable.
      check: called with (name, value), raises `InputError`.
      training: whether it changes training or its cost alone: a run may set it whatever its checkpoint says.
      inputs: whether it is about the preparation of examples: part of the encoding, and not of the network.
    """
    marks = {"check": check, "training": training, "inputs": inputs}
    return dataclasses.field(default=default, compare=not inputs, repr=not inputs, metadata=marks)


def size(default: int, **marks: bool) -> Any:
    """A positive integer."""
    return option(default, lambda name, value: check_positive(**{name: value}), **marks)


def sizes(default: tuple[int, ...], *, of: str, empty: bool = False, **marks: bool) -> Any:
    """A tuple of positive integers, one for each `of` something; at least one unless `empty` ones are allowed."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, tuple) or not (value or empty):
            least = "" if empty else "at least one "
            raise InputError(f"{name} must be a tuple of {least}{of}, found {value!r}; give e.g. (1, 2)")
        check_positive(**{f"{name}[{i}]": part for i, part in enumerate(value)})

    return option(default, check, **marks)


def choice(default: str, allowed: Sequence[str], **marks: bool) -> Any:
    """One of several words."""
    return option(default, lambda name, value: check_choice(name, value, tuple(allowed)), **marks)


def rate(default: float | None) -> Any:
    """A drop rate in [0, 1), or None where another option's value is taken; of training alone."""
    return option(default, lambda name, value: value is None or check_rate(**{name: value}), training=True)


def positive(default: float, *, most: float = float("inf"), **marks: bool) -> Any:
    """A positive number of at most `most`."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise InputError(f"{name} must be a positive number, found {value!r}")
        if value > most:
            raise InputError(f"{name} must be at most {most:g}, found {value!r}")

    return option(default, check, **marks)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The base of every family's options; a value that its field does not allow raises `InputError`."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if (check := field.metadata.get("check")) is not None:
                check(field.name, getattr(self, field.name))
        self.check()

    def check(self) -> None:
        """Raises `InputError` if options don't go together."""

    @property
    def order(self) -> str:
        """Where transformer blocks have their norms, `pre` or `post` (`Spec.order`)."""
        return "pre"

    @functools.cached_property
    def network(self) -> dict[str, Any]:
        """{name: value} of the options that are part of the network."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.metadata.get("inputs")}


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Options):
    """How images are prepared; a mixin.

    Attributes:
      image: (height, width, channels).
      mean: one for all channels or one each, of pixels in [0, 1]; empty: ImageNet's for three channels, else 0.5.
      std: likewise.
      interpolation: `nearest`, `bilinear`, `bicubic`, `lanczos`, `box` or `hamming`.
      resize: before the centre is cut out: () to the image's size, (shorter edge,) or (height, width).
    """

    image: tuple[int, int, int] = option((224, 224, 3), inputs=True)
    mean: tuple[float, ...] = option((), inputs=True)
    std: tuple[float, ...] = option((), inputs=True)
    interpolation: str = option("bilinear", inputs=True)
    resize: tuple[int, ...] = option((), inputs=True)

    @functools.cached_property
    def encoding(self) -> ImageEncoding:
        """Checked when it is made; `InputError` as `image_encoding` says."""
        return image_encoding(self.image, self.mean, self.std, self.interpolation, self.resize)

    def check(self) -> None:
        self.encoding  # noqa: B018


@dataclass(frozen=True, kw_only=True)
class TextOptions(Options):
    """How texts become tokens; a mixin.

    Attributes:
      vocab: rows of the token embedding.
      positions: the longest input there can be, in tokens.
      max_length: tokens at which inputs are cut, special ones included.
      buckets: lengths that batches are padded to, the last being `max_length`; () doubles from 32 up to it.
      tokenizer: folder of the checkpoint's tokenizer.
      tokenizer_sha256: what its files must hash to; empty takes them as they are.
    """

    vocab: int = size(30522)
    positions: int = size(512)
    max_length: int = size(128, training=True, inputs=True)
    buckets: tuple[int, ...] = option((), training=True, inputs=True)
    tokenizer: str = option("", inputs=True)
    tokenizer_sha256: str = option("", inputs=True)

    @property
    def segments(self) -> int:
        """Token types that the model tells apart; 0: it reads none."""
        return getattr(self, "types", 0)

    @functools.cached_property
    def encoding(self) -> TextEncoding:
        return TextEncoding(
            tokenizer=self.tokenizer,
            tokenizer_sha256=self.tokenizer_sha256,
            vocab=self.vocab,
            types=self.segments,
            max_length=self.max_length,
            buckets=_buckets(self.buckets, self.max_length),
        )

    def check(self) -> None:
        if self.max_length > self.positions:
            raise InputError(
                f"max_length must be at most the {self.positions} positions of the model, found {self.max_length}"
            )
        self.encoding  # noqa: B018


@dataclass(frozen=True, kw_only=True)
class TableOptions(Options):
    """The columns of a table; a mixin. A run fills in what is empty: from its source, else from its data.

    Attributes:
      numbers: columns of numbers.
      means: of each number over the training rows.
      stds: standard deviations likewise.
      categories: columns of categories.
      values: known values of each; an embedding has a row for each and one for all others.
    """

    numbers: tuple[str, ...] = option(())
    means: tuple[float, ...] = option((), inputs=True)
    stds: tuple[float, ...] = option((), inputs=True)
    categories: tuple[str, ...] = option(())
    values: tuple[tuple[str, ...], ...] = option(())

    def check(self) -> None:
        both = (*self.numbers, *self.categories)
        if len(set(both)) < len(both):
            raise InputError(f"numbers and categories must name each column once, found {both!r}")
        for name, of in (("means", self.numbers), ("stds", self.numbers), ("values", self.categories)):
            given = getattr(self, name)
            if given and len(given) != len(of):
                raise InputError(f"{name} must be () or one for each of {len(of)} columns, found {len(given)}")
        if len(self.means) != len(self.stds):
            raise InputError(
                f"means and stds go together, found {len(self.means)} and {len(self.stds)}; set both or neither"
            )
        if not all(std > 0 for std in self.stds):
            raise InputError(f"stds must be positive, found {self.stds!r}")

    @functools.cached_property
    def encoding(self) -> RowEncoding:
        names = ("numbers", "means", "stds", "categories", "values")
        return RowEncoding(**{name: getattr(self, name) for name in names})


def _buckets(buckets: tuple[int, ...], max_length: int) -> tuple[int, ...]:
    if not buckets:
        doubled = (SHORTEST << i for i in range(max_length.bit_length()))
        return (*(length for length in doubled if length < max_length), max_length)
    rising = isinstance(buckets, tuple) and all(isinstance(length, int) for length in buckets)
    if not rising or list(buckets) != sorted(set(buckets)) or buckets[0] < 1 or buckets[-1] != max_length:
        raise InputError(f"buckets must be rising lengths that end with max_length={max_length}, found {buckets!r}")
    return buckets

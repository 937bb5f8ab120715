"""The base of every model family: a chain of named units, and one-line checks of a factory's options."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from jaxfer.data.encodings.audio import AudioEncoding, mel_filters
from jaxfer.data.encodings.image import ImageEncoding
from jaxfer.data.encodings.pixels import INTERPOLATIONS
from jaxfer.errors import InputError, nearest
from jaxfer.models.execution import PLAIN, Execution

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Chain(nn.Module):
    """Units in depth order, run from any of them to any later one.

    A subclass says how each unit is built in `units`; a unit is called as `unit(x, train=train, **side)`, where x is
    the first input field, then what the unit before gives: an array [batch, ...], or any pytree of such arrays.

    Attributes:
      axis_name: mapped axis over which batch statistics are averaged; families without them ignore it.
    """

    axis_name: str | None = None

    @nn.nowrap
    def units(self) -> Mapping[str, Callable[..., nn.Module]]:
        """{unit name: constructor that takes `name`}, from the input to the head."""
        raise NotImplementedError

    @nn.nowrap
    def shared(self) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        """{unit: {argument: path of a parameter of an earlier unit}}: what a unit reads besides its own."""
        return {}

    @nn.nowrap
    def special(self) -> tuple[str, ...]:
        """Learned tokens before the places of the input in what units between the input and the head give."""
        return ()

    @nn.nowrap
    def leading(self, unit: str) -> int:
        """How many tokens come before the places of the input in what a unit before the head gives."""
        return len(self.special())

    @nn.compact
    def __call__(
        self,
        x: Any,
        *,
        begin: str | None = None,
        end: str | None = None,
        train: bool = False,
        execution: Execution = PLAIN,
        **side: Any,
    ) -> Any:
        """Runs units `begin` to `end` (inclusive; default all) on x, the input of `begin`."""
        units = self.units()
        names = list(units)
        for option, name in (("begin", begin), ("end", end)):
            if name is not None and name not in units:
                raise InputError(f"{option}={name!r} is not a unit of this model{nearest(str(name), names)}")
        first = 0 if begin is None else names.index(begin)
        last = len(names) - 1 if end is None else names.index(end)
        if first > last:
            raise InputError(f"begin={begin!r} comes after end={end!r}; the units are {', '.join(names)}")
        # Units are named here, not by order of creation, so a cut never moves a parameter.
        shared = self.shared()
        for name in names[first : last + 1]:
            lent = {argument: self._leaf(path) for argument, path in shared.get(name, {}).items()}
            x = execution.run(units[name](name=name), x, train=train, side={**side, **lent})
        return x

    @nn.nowrap
    def _leaf(self, path: tuple[str, ...]) -> Any:
        unit, *inside = path
        return functools.reduce(lambda tree, name: tree[name], inside, self.get_variable("params", unit))


def linear_rates(rate: float, blocks: int) -> tuple[float, ...]:
    """Drop rate of each residual branch, rising linearly to `rate` (Huang et al., 2016, arXiv:1603.09382, eq. 4)."""
    return tuple(rate * (i + 1) / blocks for i in range(blocks))


def check_positive(**sizes: Any) -> None:
    """`InputError` unless every value is a positive integer."""
    for option, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{option} must be a positive integer, found {value!r}; give e.g. {option}=8")


def check_choice(option: str, value: Any, allowed: tuple[str, ...]) -> None:
    """`InputError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise InputError(f"{option} must be one of {', '.join(map(repr, allowed))}, found {value!r}")


def check_rate(**rates: Any) -> None:
    """`InputError` unless every value is a drop rate in [0, 1)."""
    for option, value in rates.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
            raise InputError(f"{option} must be a drop rate in [0, 1), found {value!r}; 0.0 turns it off")


def image_encoding(
    image: tuple[int, int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    interpolation: str,
    resize: tuple[int, ...] = (),
) -> ImageEncoding:
    """The checked encoding of an image family; `image` is (height, width, channels).

    Empty `mean` and `std` take the usual values: ImageNet's statistics for three channels, else 0.5.
    """
    if not isinstance(image, tuple) or len(image) != 3:
        raise InputError(f"image must be a tuple (height, width, channels), found {image!r}")
    check_positive(**{f"image {axis}": size for axis, size in zip(("height", "width", "channels"), image, strict=True)})
    mean = mean or (IMAGENET_MEAN if image[2] == 3 else (0.5,))
    std = std or (IMAGENET_STD if image[2] == 3 else (0.5,))
    for option, values in (("mean", mean), ("std", std)):
        if not isinstance(values, tuple) or len(values) not in (1, image[2]):
            counts = "1" if image[2] == 1 else f"1 or {image[2]}"
            raise InputError(f"{option} must be a tuple of {counts} value(s) for image={image}, found {values!r}")
    if not all(value > 0 for value in std):
        raise InputError(f"std must be positive, found {std!r}")
    check_choice("interpolation", interpolation, tuple(INTERPOLATIONS))
    if not isinstance(resize, tuple) or len(resize) > 2:
        raise InputError(f"resize must be (), (shorter edge,) or (height, width), found {resize!r}")
    check_positive(**{f"resize[{i}]": side for i, side in enumerate(resize)})
    if resize and any(side < least for side, least in zip(resize * 2, image[:2], strict=False)):
        raise InputError(f"resize={resize} is smaller than image={image}, which is cut out of it; make it larger")
    resize = () if resize == image[:2] else resize  # no crop then
    return ImageEncoding(size=image, mean=mean, std=std, interpolation=interpolation, resize=resize)


def audio_encoding(rate: int, seconds: float, mels: int) -> AudioEncoding:
    """The checked encoding of an audio family."""
    check_positive(rate=rate, mels=mels)
    if rate % 200 or rate < 1000:
        raise InputError(f"rate must be a multiple of 200 from 1000 samples a second, found {rate}; give e.g. 16000")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0.02 <= seconds < math.inf:
        raise InputError(f"seconds must be a length of at least 0.02, found {seconds!r}; give e.g. 1.0")
    encoding = AudioEncoding(rate=rate, seconds=float(seconds), mels=mels)
    if not mel_filters(rate, encoding.window, mels).max(1).all():
        raise InputError(f"mels={mels} at rate={rate} has bins without any frequency; lower mels")
    return encoding

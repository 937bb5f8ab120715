"""A small convolutional network of log-mel spectrograms, after the CNNs of PANNs (Kong et al., 2020, arXiv:1912.10211).

As there: a norm of each mel bin, blocks of 3x3 convolutions with norms and 2x2 average pools, then the mean over mel
bins and the sum of mean and maximum over time. Narrower, one convolution a block, and no fully connected layer before
the output.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax

from jaxfer.data.encodings.audio import AudioEncoding
from jaxfer.models import options as families
from jaxfer.models.chain import audio_encoding
from jaxfer.models.family import Family, family_port
from jaxfer.models.layers import BatchNorm, Conv, Dense
from jaxfer.models.options import option, sizes
from jaxfer.models.options import rate as drop_rate
from jaxfer.models.port import Port


class Stem(nn.Module):
    """[batch, frames, mels] -> [batch, frames, mels, 1]: each bin by its own mean and variance.

    Levels are relative to the loudest of the sound, so that a quiet recording is like a loud one.

    Attributes:
      drop_rate: probability that a bin is dropped from a whole sound in training.
    """

    drop_rate: float
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x - x.max((1, 2), keepdims=True)
        x = BatchNorm(axis_name=self.axis_name, name="norm")(x, use_running_average=not train)
        return nn.Dropout(self.drop_rate, broadcast_dims=(1,), name="drop")(x, deterministic=not train)[..., None]


class Block(nn.Module):
    """[batch, frames, mels, in] -> [batch, frames / 2, mels / 2, width]: convolution, norm, ReLU, pool, dropout.

    A side of one row is not pooled.
    """

    width: int
    drop_rate: float
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Conv(self.width, (3, 3), 1, 1, name="conv")(x)
        x = nn.relu(BatchNorm(axis_name=self.axis_name, name="norm")(x, use_running_average=not train))
        window = tuple(min(2, side) for side in x.shape[1:3])
        return nn.Dropout(self.drop_rate, name="drop")(nn.avg_pool(x, window, window), deterministic=not train)


class Head(nn.Module):
    """Pools and the output layer: [batch, frames, mels, c] -> [batch, outputs]."""

    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.mean(2)
        return Dense((self.outputs,), name="out")(x.mean(1) + x.max(1))


@dataclass(frozen=True, kw_only=True)
class Options(families.Options):
    """
    Attributes:
      widths: channels of each block; every block halves frames and mel bins.
      dropout: drop rate after each block.
      bin_dropout: drop rate of whole mel bins at the input, the kind of gaps that SpecAugment cuts (Park et al., 2019,
        arXiv:1904.08779).
      rate: samples a second; sounds of another rate are resampled.
      seconds: length of the input: longer sounds are cut, shorter ones end in silence.
      mels: bins of the spectrogram.
    """

    widths: tuple[int, ...] = sizes((16, 32, 64, 128), of="width")
    dropout: float = drop_rate(0.2)
    bin_dropout: float = drop_rate(0.0)
    rate: int = option(16000, inputs=True)
    seconds: float = option(1.0, inputs=True)
    mels: int = option(80, inputs=True)

    @functools.cached_property
    def encoding(self) -> AudioEncoding:
        return audio_encoding(self.rate, self.seconds, self.mels)

    def check(self) -> None:
        self.encoding  # noqa: B018


class AudioCNN(Family):
    """The chain stem, block_0 ... block_{n-1}, head."""

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        options = self.options
        blocks = {
            f"block_{i}": functools.partial(Block, width, options.dropout, self.axis_name)
            for i, width in enumerate(options.widths)
        }
        return {
            "stem": functools.partial(Stem, options.bin_dropout, self.axis_name),
            **blocks,
            "head": functools.partial(Head, self.outputs),
        }


def port(options: Options, *, outputs: int) -> Port:
    """A network of log-mels."""
    return family_port(
        AudioCNN,
        options,
        outputs=outputs,
        input_axes=((r".*/conv/kernel", 3), (r"head/out/kernel", 1)),
        tensor_axes=((r".*/conv/kernel", 3), (".*", None)),
    )


TINY = {"": dict(widths=(4, 6), dropout=0.0, rate=8000, seconds=0.09, mels=7)}

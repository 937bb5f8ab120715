"""__NAME__: a small convolutional network. A model is a chain of units, so that it can be cut anywhere.

`jaxfer.models.port.Port` describes every field. Linen modules of your own are fine; those of `jaxfer.models.layers`
know about frozen norms, tensor parallelism and mixed precision.
"""

import functools
from dataclasses import dataclass

import flax.linen as nn

from jaxfer.models.family import Family, family_port
from jaxfer.models.layers import Conv, PooledHead
from jaxfer.models.options import ImageOptions, rate, size


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """The schema of `config.model`: `--config.model.width=64`.

    Attributes:
      width: channels.
      blocks: how many.
      dropout: rate before the output layer.
    """

    width: int = size(32)
    blocks: int = size(4)
    dropout: float = rate(0.0)


class Block(nn.Module):
    """3x3 convolution, ReLU: [batch, h, w, c] -> [batch, h, w, width]."""

    width: int

    @nn.compact
    def __call__(self, x, *, train):
        return nn.relu(Conv(self.width, (3, 3), 1, 1, name="conv")(x))


class Network(Family):
    """stem, block_0 ... block_{n-1}, head."""

    @nn.nowrap
    def units(self):
        block = functools.partial(Block, self.options.width)
        blocks = {f"block_{i}": block for i in range(self.options.blocks)}
        return {"stem": block, **blocks, "head": functools.partial(PooledHead, self.outputs, self.options.dropout)}


def port(options: Options, *, outputs: int):
    return family_port(
        Network,
        options,
        outputs=outputs,
        input_axes=((r".*/conv/kernel", 3), (r"head/out/kernel", 1)),  # leading axes that a kernel sums over
    )


# Options of a tiny instance, for `jaxfer check model __NAME__`.
TINY = dict(width=8, blocks=2, image=(8, 8, 3))

"""__NAME__: a small convolutional network. A model is a chain of units, so that it can be cut anywhere.

`jaxfer.models.port.Port` describes every field. Linen modules of your own are fine; those of `jaxfer.models.layers`
know about frozen norms, tensor parallelism and mixed precision.
"""

import functools

import flax.linen as nn

from jaxfer.models.chain import Chain, check_positive, image_encoding
from jaxfer.models.layers import Conv, Dense
from jaxfer.models.port import Port

# Options of a tiny instance, for `jaxfer check model __NAME__`.
TINY = dict(width=8, blocks=2, image=(8, 8, 3))


class Block(nn.Module):
    """3x3 convolution, ReLU: [batch, h, w, c] -> [batch, h, w, width]."""

    width: int

    @nn.compact
    def __call__(self, x, *, train):
        return nn.relu(Conv(self.width, (3, 3), 1, 1, name="conv")(x))


class Head(nn.Module):
    """Global average pool and the output layer: [batch, h, w, c] -> [batch, outputs]."""

    outputs: int

    @nn.compact
    def __call__(self, x, *, train):
        return Dense((self.outputs,), name="out")(x.mean((1, 2)))


class Network(Chain, kw_only=True):
    """stem, block_0 ... block_{n-1}, head."""

    outputs: int
    width: int
    blocks: int

    @nn.nowrap
    def units(self):
        block = functools.partial(Block, self.width)
        blocks = {f"block_{i}": block for i in range(self.blocks)}
        return {"stem": block, **blocks, "head": functools.partial(Head, self.outputs)}


def port(*, outputs: int, width: int = 32, blocks: int = 4, image: tuple[int, int, int] = (32, 32, 3)) -> Port:
    """Keyword arguments are options: `--config.model.width=64`."""
    check_positive(outputs=outputs, width=width, blocks=blocks)
    module = Network(outputs=outputs, width=width, blocks=blocks)
    return Port(
        module=module,
        units=tuple(module.units()),
        head="head/out",  # what a new task replaces
        input_axes=((r".*/conv/kernel", 3), (r"head/out/kernel", 1)),  # leading axes that a kernel sums over
        encodings=(image_encoding(image, (0.5,), (0.5,), "bilinear"),),
    )

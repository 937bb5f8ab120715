"""What vision transformers share: sizes, the chain of blocks between stem and head, and heads over tokens."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.models.chain import linear_rates
from jaxfer.models.family import Family, family_port
from jaxfer.models.heads import DENSE, POOLED
from jaxfer.models.layers import BLOCK_TENSOR_AXES, Dense, DenseHead
from jaxfer.models.options import ImageOptions, option, positive, rate, size
from jaxfer.models.port import Port
from jaxfer.models.transformer import Block, Spec, layer_norm

MEAN = "mean"  # the part of the features that is the mean of the patches


class TwoOutputs(nn.Module):
    """The mean of two output layers, one for each token: [batch, 2, width] -> [batch, outputs]."""

    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return (Dense((self.outputs,), name="cls")(x[:, 0]) + Dense((self.outputs,), name="dist")(x[:, 1])) / 2


class Head(nn.Module):
    """The final norm (post-norm blocks have had theirs), the pool and the output layer; the features for 0 outputs.

    Attributes:
      last: how many class tokens come first: those of the last blocks, in their order.
      registers: learned tokens between these and the patches, which no pool reads.
    """

    outputs: int
    pool: str
    epsilon: float
    norm: str
    distillation: str
    last: int = 1
    registers: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm = layer_norm(self.epsilon, "norm") if self.norm == "pre" else lambda x: x
        if self.distillation == "head" and self.outputs:
            return TwoOutputs(self.outputs, name="out")(norm(x[:, :2]))
        if self.pool == "cls+mean":
            x = norm(x)
            pooled = jnp.concatenate(
                [x[:, : self.last].reshape(len(x), -1), x[:, self.last + self.registers :].mean(1)], -1
            )
        elif self.last > 1:
            pooled = norm(x[:, : self.last]).reshape(len(x), -1)
        else:
            pooled = norm(x).mean(1) if self.pool == "mean" else norm(x[:, 0])
        if self.pool == "pooler":
            pooled = jnp.tanh(Dense(pooled.shape[-1:], name="pooler")(pooled))
        return Dense((self.outputs,), name="out")(pooled) if self.outputs else pooled


class PatchHead(DenseHead):
    """The final norm and the output layer at every patch: [batch, tokens, width] -> [batch, *size, outputs]."""

    grid: tuple[int, int] = (1, 1)
    epsilon: float = 1e-6
    norm: str = "pre"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = layer_norm(self.epsilon, "norm")(x) if self.norm == "pre" else x
        rows, columns = self.grid
        patches = x[:, -rows * columns :].reshape(len(x), rows, columns, -1)
        return super().__call__(patches, train=train)


@dataclass(frozen=True, kw_only=True)
class PatchOptions(ImageOptions):
    """A mixin of families whose tokens are square patches of an image.

    Attributes:
      patch: side of the square patches, in pixels; must divide the image's height and width.
      width: channels of a token.
      layers: transformer blocks.
      heads: attention heads; must divide the width.
      mlp_width: hidden channels of the MLP.
      last: of how many of the last blocks the head reads the class token, each under the final norm: DINOv2's linear
        evaluation has 1 and 4 (Oquab et al., 2023, arXiv:2304.07193, app. B.3). Features are `last` class tokens in
        the order of the blocks; with `cls+mean` the mean of the last block follows.
      qkv_bias: whether query, key and value have biases.
      dropout: rate after the position embeddings, the attention output, the GELU and the MLP.
      stochastic_depth: drop rate of the last block's branches, linear in depth (arXiv:1603.09382).
      epsilon: of every LayerNorm.
    """

    # Options of some families; what the others have.
    pool = "cls"
    norm = "pre"
    distillation = "none"
    registers = 0

    patch: int = size(16)
    width: int = size(768)
    layers: int = size(12)
    heads: int = size(12)
    mlp_width: int = size(3072)
    last: int = size(1)
    qkv_bias: bool = option(True)
    dropout: float = rate(0.0)
    stochastic_depth: float = rate(0.0)
    epsilon: float = positive(1e-6)

    def check(self) -> None:
        super().check()
        if self.width % self.heads:
            raise InputError(f"heads must divide the width, found width={self.width} and heads={self.heads}")
        if self.image[0] % self.patch or self.image[1] % self.patch:
            raise InputError(
                f"patch must divide the image's height and width, found patch={self.patch} and image={self.image}"
            )
        if self.last > self.layers:
            raise InputError(
                f"last must be at most the number of layers, found last={self.last} and layers={self.layers}"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches in an image."""
        return self.image[0] // self.patch, self.image[1] // self.patch

    @property
    def read(self) -> str | None:
        """The option by which the head reads more than one token; None where it doesn't."""
        several = f"last={self.last}" if self.last > 1 else None
        return several or (f"pool={self.pool!r}" if self.pool == "cls+mean" else None)

    @property
    def special(self) -> tuple[str, ...]:
        """The learned tokens before the patches."""
        return ("cls",)

    @property
    def carried(self) -> dict[str, int]:
        """{block: how many class tokens of earlier blocks it reads}, for all but the first of the `last` blocks."""
        return {f"block_{i}": kept for kept, i in enumerate(range(self.layers - self.last + 1, self.layers))}


class PatchFamily(Family):
    """The chain stem, block_0 ... block_{layers-1}, head; a family says what its stem and its blocks are."""

    @nn.nowrap
    def stem(self) -> Callable[..., nn.Module]:
        """Constructor of the stem: images to tokens, special ones first, then patches by row."""
        raise NotImplementedError

    @nn.nowrap
    def spec(self) -> Spec:
        """The form of every block."""
        options = self.options
        return Spec(
            heads=options.heads,
            mlp_width=options.mlp_width,
            order=options.norm,
            epsilon=options.epsilon,
            qkv_bias=options.qkv_bias,
            dropout=options.dropout,
            mlp_dropout=options.dropout,
        )

    @nn.nowrap
    def block(self, spec: Spec, carried: int | None) -> Callable[..., nn.Module]:
        """Constructor of a block; see `Block`."""
        return functools.partial(Block, spec, carried)

    @nn.nowrap
    def special(self) -> tuple[str, ...]:
        return self.options.special

    @nn.nowrap
    def leading(self, unit: str) -> int:
        """The special tokens, after the class tokens of earlier blocks that a block passes on."""
        carried = self.options.carried.get(unit)
        return len(self.special()) + (0 if carried is None else carried + 1)

    @nn.nowrap
    def feature_parts(self) -> tuple[str, ...]:
        """Names of the parts of what a pooled head reads: the blocks whose class tokens they are, and `mean`."""
        options = self.options
        if self.dense() or options.pool not in ("cls", "cls+mean") or options.distillation == "head":
            return ()
        blocks = tuple(f"block_{i}" for i in range(options.layers - options.last, options.layers))
        return (*blocks, MEAN) if options.pool == "cls+mean" else blocks

    @nn.nowrap
    def units(self) -> dict[str, Callable[..., nn.Module]]:
        """{unit name: constructor}."""
        options, spec = self.options, self.spec()
        rates = linear_rates(options.stochastic_depth, options.layers)
        blocks = {
            (name := f"block_{i}"): self.block(dataclasses.replace(spec, drop_rate=rate), options.carried.get(name))
            for i, rate in enumerate(rates)
        }
        if self.dense():
            sizes = dict(grid=options.grid, epsilon=options.epsilon, norm=options.norm)
            head = functools.partial(PatchHead, self.outputs, self.dense(), **sizes)
        else:
            read = (options.pool, options.epsilon, options.norm, options.distillation, options.last, options.registers)
            head = functools.partial(Head, self.outputs, *read)
        return {"stem": self.stem(), **blocks, "head": head}


def patch_port(kind: type[PatchFamily], options: PatchOptions, *, outputs: int, head: str = POOLED) -> Port:
    """The port of a vision transformer.

    Args:
      kind: the module's class.
      options: the family's.
      outputs: outputs of the head.
      head: `pooled`, `embedding` for the features it pools, or `dense` for outputs at every pixel of the input, which
        reads the patches and pools nothing.

    Raises:
      InputError: a dense head where the options say which tokens are pooled.
    """
    if head == DENSE and options.read is not None:
        raise InputError(
            f"{options.read} needs a head that pools, found head={head!r}, which reads the patches; omit it"
        )
    port = family_port(
        kind,
        options,
        outputs=outputs,
        head=head,
        input_axes=((r"stem/patch/kernel", 3), (r".*/attn/out/kernel", 2), (r".*/kernel", 1)),
        no_decay=((r".*/(bias|scale|scale_\d|cls|dist|registers|pos|relative)", 0.0), (".*", 1.0)),
        tensor_axes=(*BLOCK_TENSOR_AXES, (".*", None)),
    )
    return dataclasses.replace(port, feature_parts=port.module.feature_parts())

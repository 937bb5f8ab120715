"""SimMIM: the pixels of hidden patches are found from the other patches by a linear layer. No labels are read.

Xie et al., 2022, "SimMIM: A Simple Framework for Masked Image Modeling", arXiv:2111.09886, section 3: embedded patches
that were drawn become a learned token, all tokens pass through the network, and a linear layer behind its last norm
gives the pixels; the loss is the mean distance |x - y| over the pixels of hidden patches, as the network reads them.
What is hidden are the paper's squares of 32 pixels (section 4.1), 2 by 2 patches of ViT-B/16, where patches make such
squares, and squares images of more than a few; else single patches, as in the images of 32 pixels or less. The networks
are those that pass on a row of patches: the paper's Swin passes on maps, and is left out.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method, without
from jaxfer.methods import _dense, _patches
from jaxfer.models.layers import like
from jaxfer.models.port import Port

STD = 0.02  # of the token
PIXELS = 32  # side of a square


def method(port: Port, *, hidden: float = 0.6, square: int | None = None) -> Method:
    """Groups: `decoder`, `backbone`.

    Args:
      port: a vision transformer.
      hidden: share of the patches that is hidden, rounded up.
      square: side of what is hidden together, in patches; it must divide their rows and columns. None: as many as 32
        pixels are, or 1 where that is no whole number, no divisor of both, or hides the whole image.
    """
    if not 0 < hidden < 1 or (square is not None and square < 1):
        raise InputError(f"options: expected hidden between 0 and 1 and square >= 1, found {hidden} and {square}")
    unit, view = port.units[-1], without("decoder")

    def init(params, key, given):
        rows, columns, side = _patches.grid("simmim", port)
        if square is not None and (rows % square or columns % square):
            raise InputError(f"options.square: expected a divisor of {rows} and {columns} patches, found {square}")
        keys, width = jax.random.split(key), params[port.units[0]]["patch"]["kernel"].shape[-1]
        layer = _dense.drawn(keys[0], [*port.features, side * side * port.encoding.size[2]])
        return {**params, "decoder": {unit: {**layer, "token": STD * jax.random.normal(keys[1], (width,))}}}, {}

    def batch(ctx):
        rows, columns, side = _patches.grid("simmim", port)
        together = square or papers_square(rows, columns, side, hidden)
        mask = masked(ctx.key, len(ctx.batch[port.inputs[0]]), rows, columns, hidden, together)
        return {**ctx.batch, "hidden": mask}

    def loss(ctx, outputs):
        rows, columns, side = _patches.grid("simmim", port)
        decoder, images, mask = ctx.params["decoder"][unit], ctx.batch[port.inputs[0]], ctx.batch["hidden"]

        def hide(next_fun, args, kwargs, context):
            y = next_fun(*args, **kwargs)
            if context.method_name == "__call__" and "/".join(context.module.path) == f"{port.units[0]}/patch":
                y = jnp.where(mask[..., None], like(decoder["token"], y), y)
            return y

        params = view(ctx.params, ctx.extra)
        tokens = ctx.forward(params, train=True, intercept=hide, end=port.units[-2]).outputs[:, -rows * columns :]
        layer = decoder["layer_0"]
        found = _patches.read_apart(ctx, port, params, tokens) @ layer["kernel"] + layer["bias"]
        return apart(found, _patches.pixels(images, side), mask.reshape(len(images), -1)), {}

    return Method(
        rules=(("decoder/.*", "decoder"), (".*", "backbone")),
        init=init,
        view=view,
        batch=batch,
        loss=loss,
        merge=view,
        tasks=("unlabelled",),
        hparams={"lr": (8e-4, (1e-4, 3e-4, 8e-4))},
    )


def papers_square(rows: int, columns: int, side: int, hidden: float) -> int:
    """The side of a square of 32 pixels in patches of so many pixels; 1 where the image does not divide into those."""
    square = PIXELS // side
    if PIXELS % side or rows % square or columns % square:
        return 1
    count = rows * columns // square**2
    return square if math.ceil(hidden * count) < count else 1


def masked(key: jax.Array, examples: int, rows: int, columns: int, hidden: float, square: int) -> jax.Array:
    """Which patches of each example are hidden, bool [examples, rows, columns]; as many in each."""
    coarse = rows // square, columns // square
    count = math.ceil(hidden * coarse[0] * coarse[1])
    ranks = jnp.argsort(_patches.order(key, examples, coarse[0] * coarse[1]), axis=1)
    mask = (ranks < count).reshape(examples, *coarse)
    return mask.repeat(square, axis=1).repeat(square, axis=2)


def apart(found: jax.Array, pixels: jax.Array, mask: jax.Array) -> jax.Array:
    """[]: the mean distance of pixels [batch, patches, pixels] of those that the mask [batch, patches] has."""
    each = jnp.abs(found - pixels).mean(-1)
    return (each * mask).sum() / mask.sum()

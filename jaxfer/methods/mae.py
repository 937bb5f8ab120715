"""MAE: a network reads a few patches of an image, and a small decoder finds the pixels of the others. No labels.

He et al., 2022, "Masked Autoencoders Are Scalable Vision Learners", arXiv:2111.06377, section 3: the blocks read the
special tokens and the patches that were kept alone, with their positions; behind the last norm a layer maps them to the
decoder's width, a learned token stands for each hidden patch, and transformer blocks and a linear layer give pixels.
The loss is the mean square over the pixels of hidden patches, each patch at mean 0 and variance 1. The decoder is as
wide as the network at most. Its positions are fixed sines and cosines, as in the paper, or learned ones
(`positions=learned`); the network's are its own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.errors import InputError, nearest
from jaxfer.method import Method, without
from jaxfer.methods import _decoder, _dense, _patches
from jaxfer.models.port import Port

STD, EPSILON = 0.02, 1e-6  # of the token and learned positions; of a variance
POSITIONS = SINES, LEARNED = "sines", "learned"


def method(
    port: Port,
    *,
    hidden: float = 0.75,
    layers: int = 8,
    width: int = 512,
    normed: bool = True,
    positions: str = SINES,
) -> Method:
    """Groups: `decoder`, `backbone`.

    Args:
      port: a vision transformer whose blocks read any number of tokens.
      hidden: share of the patches that is hidden; what is kept is rounded down.
      layers: blocks of the decoder; one is as good where the network is fine-tuned (the paper's table 1a).
      width: channels of a token there, in heads of 32; at most the network's.
      normed: whether each patch's pixels are normed before they are compared.
      positions: of the decoder's tokens, `sines` or `learned`.
    """
    if not 0 < hidden < 1 or layers < 1 or width < 1:
        found = f"found {hidden}, {layers} and {width}"
        raise InputError(f"options: expected hidden between 0 and 1, layers >= 1 and width >= 1, {found}")
    if positions not in POSITIONS:
        near = nearest(positions, POSITIONS)
        raise InputError(f"options.positions: expected {' or '.join(POSITIONS)}, found {positions!r}{near}")
    unit, view = port.units[-1], without("decoder")

    def init(params, key, given):
        rows, columns, side = _patches.grid("mae", port, fewer=True)
        if not kept_of(rows * columns):
            raise InputError(f"options.hidden: {hidden} keeps none of {rows * columns} patches; lower it")
        own = min(width, params[port.units[0]]["patch"]["kernel"].shape[-1])
        keys = jax.random.split(key, 4)
        leaves = {
            "enter": _dense.drawn(keys[0], [*port.features, own])["layer_0"],
            "token": STD * jax.random.normal(keys[1], (own,)),
            **_decoder.drawn(keys[2], own, layers),
            "leave": _dense.drawn(keys[3], [own, side * side * port.encoding.size[2]])["layer_0"],
        }
        if positions == LEARNED:
            leaves["pos"] = STD * jax.random.normal(jax.random.fold_in(keys[1], 1), (rows * columns, own))
        return {**params, "decoder": {unit: leaves}}, {}

    def kept_of(patches):
        return int(patches * (1 - hidden))

    def batch(ctx):
        rows, columns, _ = _patches.grid("mae", port, fewer=True)
        order = _patches.order(ctx.key, len(ctx.batch[port.inputs[0]]), rows * columns)
        return {**ctx.batch, "order": order}

    def loss(ctx, outputs):
        rows, columns, side = _patches.grid("mae", port, fewer=True)
        images, order = ctx.batch[port.inputs[0]], ctx.batch["order"]
        stem, count = port.units[0], kept_of(rows * columns)
        params, leading = view(ctx.params, ctx.extra), port.module.leading(stem)

        def keep(next_fun, args, kwargs, context):
            y = next_fun(*args, **kwargs)
            if context.method_name == "__call__" and "/".join(context.module.path) == stem:
                visible = jnp.take_along_axis(y[:, leading:], order[:, :count, None], axis=1)
                y = jnp.concatenate([y[:, :leading], visible], axis=1)
            return y

        tokens = ctx.forward(params, train=True, intercept=keep, end=port.units[-2]).outputs
        features = _patches.read_apart(ctx, port, params, tokens)
        decoder = ctx.params["decoder"][unit]
        if positions == SINES:
            decoder = {**decoder, "pos": sines(rows, columns, decoder["token"].shape[-1])}
        found = decoded(decoder, features, order, count)
        mask = jnp.argsort(order, axis=1) >= count
        return apart(found, _patches.pixels(images, side), mask, normed), {}

    return Method(
        rules=(("decoder/.*", "decoder"), (".*", "backbone")),
        init=init,
        view=view,
        batch=batch,
        loss=loss,
        merge=view,
        tasks=("unlabelled",),
        hparams={"lr": (1e-3, (1.5e-4, 6e-4, 1e-3, 2.4e-3))},
    )


def sines(rows: int, columns: int, width: int) -> np.ndarray:
    """float32 [rows * columns, width]: half of the channels say the column, the others the row, each by sines and then
    cosines of wavelengths from 2 pi to 2 pi * 10,000, as in the authors' code. Up to three last channels that this
    leaves over are 0."""
    quarter = width // 4
    places = np.arange(columns), np.arange(rows)
    angles = [np.outer(place, 10_000.0 ** -(np.arange(quarter) / max(1, quarter))) for place in places]
    of_column, of_row = (np.concatenate([np.sin(angle), np.cos(angle)], 1) for angle in angles)
    found = np.zeros((rows, columns, width), np.float32)
    found[..., : 2 * quarter], found[..., 2 * quarter : 4 * quarter] = of_column, of_row[:, None]
    return found.reshape(rows * columns, width)


def decoded(decoder, features: jax.Array, order: jax.Array, count: int) -> jax.Array:
    """Pixels [batch, patches, pixels] of all patches.

    Args:
      decoder: its parameters, and `pos` [patches, width].
      features: [batch, special tokens + kept patches, width] of the network.
      order: int32 [batch, patches], of which the first `count` were kept.
      count: how many.
    """
    x = features @ decoder["enter"]["kernel"] + decoder["enter"]["bias"]
    special, (batch, patches) = x.shape[1] - count, order.shape
    missing = jnp.broadcast_to(decoder["token"], (batch, patches - count, x.shape[-1]))
    every = jnp.concatenate([x[:, special:], missing], axis=1)
    every = jnp.take_along_axis(every, jnp.argsort(order, axis=1)[:, :, None], axis=1) + decoder["pos"]
    x = _decoder.through(decoder, jnp.concatenate([x[:, :special], every], axis=1))[:, special:]
    return x @ decoder["leave"]["kernel"] + decoder["leave"]["bias"]


def apart(found: jax.Array, pixels: jax.Array, mask: jax.Array, normed: bool) -> jax.Array:
    """[]: the mean square of what pixels [batch, patches, pixels] are off where the mask [batch, patches] is.

    The variance of a patch is the unbiased one, as in the authors' code.
    """
    if normed:
        mean, variance = pixels.mean(-1, keepdims=True), pixels.var(-1, keepdims=True, ddof=1)
        pixels = (pixels - mean) / jnp.sqrt(variance + EPSILON)
    each = jnp.square(found - pixels).mean(-1)
    return (each * mask).sum() / mask.sum()

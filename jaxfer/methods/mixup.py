"""Mixup and CutMix, an add-on: each example is blended with a partner, or has a box of it, and so has its label.

Zhang et al., 2017, "mixup", arXiv:1710.09412; Yun et al., 2019, "CutMix", arXiv:1905.04899. As timm's `Mixup` has them:
the partner is the example at the same place of the reversed batch, a share `lam` ~ Beta(alpha, alpha) is the example's
own, and CutMix's share is that of the pixels that the box, cut at the image's edges, leaves.

The loss is lam * L(label) + (1 - lam) * L(partner's label). Cross-entropy is linear in its target, so this is that of
the soft label, and label smoothing lies inside the mix. Scores logged in training (accuracy) compare with the
example's own label, whatever its share: they are lower than those on val. Draws are of the step's key, for the whole
batch before it is sliced or split over devices.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError, nearest
from jaxfer.method import PAIRS, SAME, Method
from jaxfer.methods._based import check_main
from jaxfer.models.port import Port
from jaxfer.task import Mean, Task

MODES = ("batch", "pair", "elem")
TASKS = ("classification", "multilabel")  # a label for each example, and a loss that is linear in it
PARTNER = "mixup/partner"  # a part of the batch; no stream has such a name
FOLD = 2**31  # of the step's key; slices fold in small numbers


class Draws(NamedTuple):
    """What is drawn for each unit: the batch, a pair or an example.

    Attributes:
      share: float32 [units], lam as drawn, 1 where nothing is mixed.
      cut: bool [units], CutMix in place of mixup.
      y, x: int32 [units], the centre of the box.
    """

    share: jax.Array
    cut: jax.Array
    y: jax.Array
    x: jax.Array


def add(method: Method, port: Port, *, mix: str = "batch") -> Method:
    """The method on mixed images.

    Args:
      method: of a task in `TASKS`.
      port: a model of images.
      mix: what shares one draw: the `batch`, a `pair` of partners, or nothing (`elem`).

    Hparams: `mixup_alpha` and `cutmix_alpha`, 0: none of it; `switch_prob`, CutMix's probability where both are set;
    `mix_prob`, that anything is mixed; `mix_until`, the step of the stage from which nothing is, 0: never.
    """
    if mix not in MODES:
        raise InputError(f"options.mix: unknown {mix!r}{nearest(mix, MODES)}")
    if [encoding.column for encoding in port.encodings] != ["image"]:
        raise InputError(f"add-on mixup mixes images, the model reads {port.encoding.noun}; remove it from adds")
    tasks = tuple(name for name in TASKS if name in (method.tasks or TASKS))
    if not tasks:
        raise InputError(
            f"add-on mixup mixes labels, the method learns {' or '.join(method.tasks)}; remove it from adds"
        )
    check_main("mixup", method)
    if {SAME, PAIRS} & {*method.streams.values()}:
        raise InputError("add-on mixup mixes one of the two examples that the method compares; remove it from adds")
    field = port.inputs[0]

    def batch(ctx):
        ctx = dataclasses.replace(ctx, batch=method.batch(ctx)) if method.batch is not None else ctx
        images = ctx.batch[field]
        # Whatever a loss reads of an example beside its inputs: its label, its class's margin.
        targets = {name: x for name, x in ctx.batch.items() if name not in port.inputs and not isinstance(x, Mapping)}
        units, unit = units_of(mix, len(images))
        key = jax.random.fold_in(ctx.key, FOLD)
        drawn = draws(key, units, ctx.hparams, ctx.step, images.shape[1:3])
        mixed, share = blended(images, drawn, unit)
        partner = {"targets": {name: x[::-1] for name, x in targets.items()}, "share": share}
        return {**ctx.batch, field: mixed, PARTNER: partner}

    def loss(ctx, outputs):
        unlabelled = {name: value for name, value in ctx.batch.items() if name != "label"}
        seen = dataclasses.replace(ctx, task=_of_both(ctx.task, ctx.batch["label"]), batch=unlabelled)
        try:
            return method.loss(seen, outputs)
        except KeyError as error:
            if error.args != ("label",):
                raise
            raise InputError("add-on mixup: the method reads the labels itself, not by its task; remove it") from None

    whole = (0.0, math.inf)
    return dataclasses.replace(
        method,
        batch=batch,
        loss=loss,
        tasks=tasks,
        hparams={
            **method.hparams,
            "mixup_alpha": (0.2, (0.1, 0.2, 0.4, 0.8)),
            "cutmix_alpha": (0.0, (0.0, 1.0)),
            "switch_prob": (0.5, (0.5,)),
            "mix_prob": (1.0, (0.5, 1.0)),
            "mix_until": (0.0, (0.0,)),
        },
        limits={
            **method.limits,
            **dict.fromkeys(("mixup_alpha", "cutmix_alpha", "mix_until"), whole),
            **dict.fromkeys(("switch_prob", "mix_prob"), (0.0, 1.0)),
        },
    )


def units_of(mix: str, size: int) -> tuple[int, jax.Array]:
    """(how many units a batch has, int32 [batch]: that of each example)."""
    places = jnp.arange(size)
    if mix == "batch":
        return 1, jnp.zeros_like(places)
    return (size, places) if mix == "elem" else ((size + 1) // 2, jnp.minimum(places, size - 1 - places))


def draws(
    key: jax.Array, units: int, hparams: Mapping[str, jax.Array], step: jax.Array, sides: tuple[int, int]
) -> Draws:
    """The draws of a step, for images of these (height, width)."""
    keys = jax.random.split(key, 5)
    mixup, cutmix, until = (hparams[name] for name in ("mixup_alpha", "cutmix_alpha", "mix_until"))
    switch = jnp.where(mixup > 0, jnp.where(cutmix > 0, hparams["switch_prob"], 0.0), 1.0)
    cut = jax.random.uniform(keys[0], (units,)) < switch
    alpha = jnp.where(cut, cutmix, mixup)
    mixes = (jax.random.uniform(keys[1], (units,)) < hparams["mix_prob"]) & (alpha > 0)
    mixes &= (until == 0) | (step < until)
    alpha = jnp.where(alpha > 0, alpha, 1.0)
    share = jnp.where(mixes, symmetric_beta(keys[2], alpha), 1.0)
    y, x = (jax.random.randint(key, (units,), 0, side) for key, side in zip(keys[3:], sides, strict=True))
    return Draws(share, cut, y, x)


def symmetric_beta(key: jax.Array, alpha: jax.Array) -> jax.Array:
    """Draws from Beta(alpha, alpha), one for each: t / sqrt(2 alpha + t^2), of a Student t with 2 alpha degrees by
    Bailey's polar method (Devroye, 1996, doi:10.1145/256562.256623, sec. 3), moved to 0..1.

    `jax.random.beta` draws by rejection: its loops take longer to compile than a small network.
    """
    u, v = jax.random.uniform(key, (2, *alpha.shape))
    w, cosine = u ** (1 / alpha), jnp.cos(2 * jnp.pi * v)
    square = (1 - w) * cosine**2
    return (1 + jnp.sign(cosine) * jnp.sqrt(square / (w + square))) / 2


def blended(images: jax.Array, drawn: Draws, unit: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the images [batch, height, width, channels] with their partners, lam [batch], CutMix's corrected by its box)."""
    sides, units = images.shape[1:3], len(drawn.share)
    inside, area = jnp.ones((units, 1, 1), bool), jnp.ones(units, jnp.int32)
    for axis, (side, centre) in enumerate(zip(sides, (drawn.y, drawn.x), strict=True), start=1):
        half = (side * jnp.sqrt(1 - drawn.share)).astype(jnp.int32) // 2
        first, stop = jnp.clip(centre - half, 0, side), jnp.clip(centre + half, 0, side)
        places = jnp.expand_dims(jnp.arange(side), (0, 3 - axis))
        inside &= (places >= first[:, None, None]) & (places < stop[:, None, None])
        area *= stop - first
    share = jnp.where(drawn.cut, 1 - area / math.prod(sides), drawn.share)
    own = jnp.where(drawn.cut[:, None, None], 1.0 - inside, share[:, None, None])[..., None]
    own = own if units == 1 else own[unit]
    return (own * images + (1 - own) * images[::-1]).astype(images.dtype), share[unit]


def _of_both(task: Task, label: jax.Array) -> Task:
    """The task with the loss of both labels, on mixed examples; what is not mixed keeps its own."""
    if task.weights is not None:
        raise InputError("add-on mixup mixes labels, config.task.class_weights weighs them whole; omit one of them")

    def loss(outputs: jax.Array, batch: Mapping[str, Any], hparams: Mapping[str, jax.Array]) -> Mean:
        if PARTNER not in batch:
            return task.loss(outputs, batch, hparams)
        partner, share = batch[PARTNER], batch[PARTNER]["share"]
        own, other = (task.loss(outputs, {**batch, **of}, hparams) for of in ({"label": label}, partner["targets"]))
        return Mean(share * own.total + (1 - share) * other.total, own.count)

    return dataclasses.replace(task, loss=loss)

"""DELTA: feature maps of the model stay near those of the network it starts from, the more so where a channel matters.

Li et al., 2019, "DELTA: Deep Learning Transfer using Feature Map with Attention for Convolutional Networks",
arXiv:1901.09229, eqs. 3 to 5: loss + alpha * the mean over the batch of
1/2 * sum over units and channels of a_c * the mean over places of (map - the start's map)^2 + beta / 2 * |head|^2.
The factors are the authors' code's, but that sums over the batch: their alpha of 0.01 for 64 examples is 0.64 here
(TLlib's, for 48, 0.48), whatever the batch. The start is a frozen copy in evaluation mode, on the same augmented
examples.

a_c is the supervised attention: channels times softmax(z / 5), z being the standardised increase of the loss when the
channel is set to zero, over `measured` examples of the training split (the authors' code takes four batches of 64,
TLlib ten of 32). It is measured with the head that the stage starts with: let a stage of `probe` train that first, as
the paper does. There a filter of a convolution is set to zero, here a channel of what the unit gives. The variant
without attention, a_c = 1, is the paper's DELTA (w/o ATT): `attention=False`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError, nearest
from jaxfer.method import Method, task_loss
from jaxfer.models.port import Port
from jaxfer.rules import flatten, unflatten

COUNT = 4  # units that are compared


def method(port: Port, *, units: tuple[str, ...] = (), attention: bool = True, measured: int = 256) -> Method:
    """Groups: `head`, `backbone`. Hparams: `alpha`, of the maps; `beta`, the pull of the head to zero.

    Args:
      port: the model.
      units: whose maps are compared; empty: four before the head, evenly spaced, with the last.
      attention: whether channels weigh as the supervised attention says, which takes a pass for each of them, from its
        unit on, over the measured examples.
      measured: examples of the training split that these passes read, drawn by the run's seed; 0: all of them.
    """
    if measured < 0:
        raise InputError(
            f"options.measured: expected examples >= 0, found {measured}; 0 takes the whole training split"
        )
    inner = port.units[:-1]
    for name in units:
        if name not in inner:
            raise InputError(f"options.units: {name!r} is no unit of the model before its head{nearest(name, inner)}")
    evenly = (inner[-(-(i + 1) * len(inner) // COUNT) - 1] for i in range(COUNT))
    units = tuple(sorted(units, key=port.units.index)) or tuple(dict.fromkeys(evenly))

    after = dict(zip(port.units, port.units[1:], strict=False))

    def check():
        several = [unit for unit in units if not hasattr(port.passed(after[unit]), "shape")]
        if several:
            raise InputError(
                f"delta compares arrays, unit {several[0]!r} gives several; choose others in options.units"
            )

    def measure(ctx, given):  # {unit: [batch, channels]}
        check()

        def losses(outputs):
            outputs = outputs.reshape(-1, 2, outputs.shape[-1]) if port.apart else outputs
            return ctx.task.scores(outputs, ctx.batch)["loss"].total

        passed = ctx.forward(ctx.params, taps=units)
        before = ctx.task.scores(passed.outputs, ctx.batch)["loss"].total

        def increases(unit):
            whole = passed.taps[unit]

            def without(channel):
                left = jnp.where(jnp.arange(whole.shape[-1]) == channel, jnp.zeros_like(whole), whole)
                fields = {**ctx.batch, port.inputs[0]: left}
                return losses(ctx.forward(ctx.params, other=fields, begin=after[unit]).outputs) - before

            return jax.lax.map(without, jnp.arange(whole.shape[-1])).T

        return {unit: increases(unit) for unit in units}

    def init(params, key, given):
        check()
        last = port.units.index(units[-1])
        start = {path: x for path, x in flatten(params).items() if port.units.index(port.unit(path)) <= last}
        extra = {"start": start, "norms": given.model_state}
        if attention:
            extra["attention"] = {unit: attended(given.measured[unit]) for unit in units}
        return params, extra

    def loss(ctx, outputs):
        value, metrics = task_loss(ctx, outputs)
        start = ctx.forward(
            unflatten(ctx.extra["start"]), model_state=ctx.extra["norms"], taps=units, end=units[-1]
        ).taps
        weights = ctx.extra.get("attention", dict.fromkeys(units, 1.0))
        maps = ((ctx.taps[unit].astype(jnp.float32), start[unit].astype(jnp.float32), weights[unit]) for unit in units)
        pull = sum(distance(*read) for read in maps)
        head = {path: x for path, x in flatten(ctx.params).items() if path.startswith(f"{port.head}/")}
        size = sum(jnp.sum(jnp.square(x)) for x in head.values())
        penalty = ctx.hparams["alpha"] * pull + ctx.hparams["beta"] / 2 * size
        return value + penalty, {**metrics, "penalty": penalty}

    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", "backbone")),
        taps=units,
        measure=measure if attention else None,
        measured_rows=measured or None,
        init=init,
        loss=loss,
        decays=True,
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "alpha": (0.64, (0.064, 0.64, 6.4)),
            "beta": (0.01, (0.01,)),
        },
    )


def attended(increases: jax.Array) -> jax.Array:
    """Increases of the loss [channels] -> weights of the channels, which sum to their number."""
    z = (increases - increases.mean()) / jnp.maximum(increases.std(), 1e-12)
    return len(z) * jax.nn.softmax(z / 5)


def distance(new: jax.Array, start: jax.Array, weights: jax.Array | float) -> jax.Array:
    """[]: of two maps [batch, ..., channels], as above, for one unit, in their own type."""
    apart = jnp.square(new - start)
    return (apart.mean(tuple(range(apart.ndim - 1))) * weights).sum() / 2

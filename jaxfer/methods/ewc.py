"""Elastic weight consolidation: parameters that the source's task needs are held near their start.

Kirkpatrick et al., 2017, "Overcoming catastrophic forgetting in neural networks", arXiv:1612.00796, eq. 3:
loss + strength / 2 * sum of F * (w - w0)^2 over the backbone. F is the diagonal of the Fisher information at the
source's parameters, by its own head: the mean over examples of the square of the gradient of log p(y | x), y being the
label, as implementations have it, or with `expected` every class, as much as the source expects it, as the information
is defined. The run's head moves freely. Its examples are those of `config.stream.former`, whose weight is 0 and whose
metrics say what is left of the earlier task; without that stream the run's own, if it keeps the source's head.

Online EWC (Schwarz et al., 2018, "Progress & Compress: A scalable framework for continual learning", arXiv:1805.06370),
the option `online`: F = online * (F of the source's run) + F as measured, around the last parameters alone.

mammoth's online form weighs each example's square by p(y | x) (`weighted`) and has no factor 1/2: its lambda is half of
`strength`.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method, task_loss
from jaxfer.methods._fisher import expected_squares, squared_gradients
from jaxfer.models.port import Port
from jaxfer.rules import flatten


def method(
    port: Port, *, source_outputs: int = 0, online: float = 0.0, weighted: bool = False, expected: bool = False
) -> Method:
    """Groups: `head`, `backbone`.

    Hparam: `strength`. A source that is sure of its labels has small gradients, and so a small F: then it has to be
    large, 1e6 in `configs/digits_replay.py`.

    Args:
      port: the model.
      source_outputs: classes of the source, filled in from `config.init`.
      online: what F of the tasks before the last one still counts for, 0 to 1 (gamma of the paper). The source's run
        hands it on, if its method is ewc with this option too. At 0 only the last task is held.
      weighted: whether an example counts as much as its label's probability, as in mammoth.
      expected: whether F is over the classes that the source expects, not the label: a pass for each of them.
    """
    if weighted and expected:
        raise InputError("config.options: weighted and expected are two forms of F; choose one")
    if not 0 <= online <= 1:
        raise InputError(f"config.options.online: expected 0 to 1, found {online}; 0 is plain ewc")

    def shared(params):
        return {path: leaf for path, leaf in flatten(params).items() if not path.startswith(f"{port.head}/")}

    def measure(ctx, given):
        if expected:
            return expected_squares(ctx, shared(ctx.params), source_outputs or port.outputs)
        return squared_gradients(ctx, shared(ctx.params), weighted)

    def init(params, key, given):  # State copies the anchor, so donating the parameters leaves it intact
        fisher = given.measured
        if given.former is not None:
            fisher = {path: leaf + online * given.former[path] for path, leaf in fisher.items()}
        return params, {"anchor": shared(params), "fisher": fisher}

    def loss(ctx, outputs):
        value, metrics = task_loss(ctx, outputs)
        anchor, fisher = ctx.extra["anchor"], ctx.extra["fisher"]
        pull = sum(jnp.sum(fisher[path] * jnp.square(leaf - anchor[path])) for path, leaf in shared(ctx.params).items())
        penalty = ctx.hparams["strength"] / 2 * pull
        return value + penalty, {**metrics, "penalty": penalty}

    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", "backbone")),
        source_outputs=source_outputs,
        measure=measure,
        measure_on="former",
        former=(lambda params, extra: extra["fisher"]) if online else None,
        init=init,
        loss=loss,
        tasks=("classification",),
        hparams={"lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)), "strength": (1.0, (1.0, 1e2, 1e4, 1e6))},
    )

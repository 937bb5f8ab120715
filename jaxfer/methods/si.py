"""Synaptic intelligence: parameters that earlier tasks needed are held near where those tasks left them.

Zenke, Poole and Ganguli, 2017, "Continual Learning Through Synaptic Intelligence", arXiv:1703.04200, eqs. 3 to 5. While
a task is trained, each parameter's share of what its loss lost is summed: w += -(gradient of the task's loss) * (the
step), by the gradient of the batch, as the paper does. At its end the parameter's importance grows by
w / (its whole way^2 + xi). The next task has the loss + c * the sum of importance * (parameter - start)^2. A run that
starts from a run of this method gets the importance there; after any other source it is 0. Heads move freely.

A sum w may be negative, with momentum say, and a negative importance drives its parameter away. The paper does nothing
about it. The authors' code (ganguli-lab/pathint) takes max(0, importance) after each task: `floor=importance`.
`floor=task` takes max(0, w) of each task by itself, so that a task can't lower what an earlier one made important.
mammoth sums lr * gradient^2, plain SGD's, and clips gradients by value at 1: `config.clip_mode=value` and
`config.clip=1` do that.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxfer.errors import InputError, nearest
from jaxfer.method import Method
from jaxfer.methods import full
from jaxfer.models.port import Port
from jaxfer.rules import flatten

FLOORS = NONE, TASK, IMPORTANCE = "none", "task", "importance"


def method(port: Port, *, xi: float = 0.1, floor: str = NONE) -> Method:
    """Groups: `head`, `backbone`. Hparam: `c`, the strength.

    A short run has a short path, and so little importance: then c has to be large, 1000 in
    `experiments/methods/continual.py`.

    Args:
      port: the model.
      xi: keeps the importance of a parameter that hardly moved small.
      floor: what can't be negative: `none`, as in the paper, a `task`'s sum, or the `importance` after it.
    """
    if floor not in FLOORS:
        found = f"{floor!r}{nearest(floor, FLOORS)}"
        raise InputError(f"config.options.floor: expected {', '.join(FLOORS)}, found {found}")
    if xi <= 0:
        raise InputError(f"config.options.xi: expected a number above 0, found {xi}; 0.1 is the default")

    def shared(params):
        return {path: leaf for path, leaf in flatten(params).items() if not path.startswith(f"{port.head}/")}

    def init(params, key, given):
        start = shared(params)
        nothing = {path: jnp.zeros_like(leaf) for path, leaf in start.items()}
        importance = nothing if given.former is None else given.former
        return params, {"start": start, "path": nothing, "importance": importance}

    def gradient(next, ctx, trainable):
        # The penalty's gradient is added by hand: `update` needs that of the task alone.
        task, (metrics, model_state) = next(trainable)
        strength, extra = ctx.hparams["c"], ctx.extra
        away = {path: leaf - extra["start"][path] for path, leaf in trainable.items() if path in extra["start"]}
        held = {path: extra["importance"][path] * x for path, x in away.items()}
        penalty = strength * sum(jnp.sum(held[path] * x) for path, x in away.items())
        loss, count = metrics["loss"]
        whole = {path: g + 2 * strength * held[path] if path in held else g for path, g in task.items()}
        return whole, ({**metrics, "loss": (loss + penalty, count), "penalty": (penalty, None)}, model_state)

    def update(ctx, extra):
        before, now, path = ctx.taken.before, flatten(ctx.params), dict(extra["path"])
        for name, g in ctx.taken.gradients.items():
            if name in path:
                path[name] -= g * (now[name] - before[name])
        return {**extra, "path": path}

    def former(params, extra):
        now, importance = shared(params), {}
        for path, leaf in extra["importance"].items():
            total = extra["path"][path] if floor != TASK else jnp.maximum(extra["path"][path], 0)
            grown = leaf + total / (jnp.square(now[path] - extra["start"][path]) + xi)
            importance[path] = jnp.maximum(grown, 0) if floor == IMPORTANCE else grown
        return importance

    return dataclasses.replace(
        full.method(port),
        init=init,
        gradient=gradient,
        update=update,
        former=former,
        hparams={"lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)), "c": (0.1, (0.1, 1.0, 30.0, 1e3))},
        limits={"c": (0.0, float("inf"))},
    )

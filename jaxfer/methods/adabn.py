"""AdaBN: batch norms take statistics anew, of the target; no parameter changes.

Li et al., 2016, "Revisiting Batch Normalization For Practical Domain Adaptation", arXiv:1603.04779, Algorithm 1: mean
and variance of each norm's inputs over all of the target's batches, by forward passes alone. They take the place of the
source's with the first batch, and are those of every example that was read since: of the whole target after as many
steps as it has batches. Each norm is normalised by its batch's statistics meanwhile, so that what deeper norms read
depends a little on the batch size, and nothing is dropped.

With statistics=running they follow the batches at the norm's own momentum, as a network does that is trained on: with
PyTorch's 0.1 a share of 0.9^steps is the source's in the end. The labelled examples do not pass through the network.
The stage starts from a classifier of the source.

With examples=training the statistics are of the training examples that the stage reads, as averages of parameters
need them: the last lines of SWA's Algorithm 1 (Izmailov et al., 2018, arXiv:1803.05407), in a stage after `swa`. It is
a pass over the split where it has an epoch's steps and begins with one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method
from jaxfer.methods import _domains
from jaxfer.models.execution import PLAIN
from jaxfer.models.layers import BatchNorm
from jaxfer.models.port import Port
from jaxfer.rules import flatten, unflatten

STATISTICS = ("exact", "running")
TRAINING = "training"
KEPT = "batch_stats"


def method(port: Port, *, statistics: str = "exact", examples: str | None = None) -> Method:
    """No group is trained: the loss is 0, rates have no effect.

    Args:
      port: the model.
      statistics: `exact`: of all examples read; `running`: at the norm's momentum, the source's fade.
      examples: `training`: those of the training split; None: of the stream `target`.
    """
    if statistics not in STATISTICS:
        raise InputError(f"options.statistics: expected {' or '.join(STATISTICS)}, found {statistics!r}")
    if examples not in (None, TRAINING):
        raise InputError(f"options.examples: expected {TRAINING}, found {examples!r}; omit it for those of the target")
    exact, own = statistics == "exact", examples == TRAINING

    def init(params, key, given):
        if not port.norms(given.model_state or {}):
            raise InputError("adabn: the model keeps no running statistics; use shot or tent")
        if exact and (others := sorted(port.norms(given.model_state) - norms(port).keys())):
            raise InputError(f"adabn: {others[0]} is no BatchNorm of jaxfer's; set options.statistics=running")
        return params, {}

    def gradient(next, ctx, trainable):
        gradients, (metrics, after) = next(trainable)
        read = len((ctx.batch if own else ctx.batch["target"])[port.inputs[0]])
        kept = over_all(flatten(ctx.model_state[KEPT]), flatten(after[KEPT]), ctx.step, read, norms(port))
        return gradients, (metrics, {**after, KEPT: unflatten(kept)})

    return Method(
        rules=((".*", FROZEN),),
        init=init,
        streams={} if own else _domains.STREAMS,
        main=own,
        norms_alone=True,
        whole_batch=exact,  # slices would count as batches of their own
        loss=lambda ctx, outputs: (jnp.zeros(()), {}),
        hparams={"lr": (0.0, (0.0,))},
        **({"gradient": gradient} if exact else {}),
    )


@functools.lru_cache(maxsize=16)
def norms(port: Port) -> Mapping[str, tuple[float, int]]:
    """{path: (weight of a new batch in its running statistics, positions that it normalises of an example)}."""
    port, found, examples = dataclasses.replace(port.whole or port, execution=PLAIN), {}, 2

    def watch(next_fun, args, kwargs, context):
        if context.method_name == "__call__" and isinstance(context.module, BatchNorm):
            seen = args[0].size // args[0].shape[-1] // examples
            found["/".join(context.module.path)] = context.module.momentum, seen
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(watch):
        jax.eval_shape(lambda key, batch: port.init(key, batch), jax.random.key(0), port.example(examples))
    return found


def over_all(before: Mapping, after: Mapping, step: jax.Array, examples: int, sizes: Mapping) -> dict[str, jax.Array]:
    """{path: mean or unbiased variance} of all batches up to this one.

    Args:
      before: of those before it; in step 0 of anything.
      after: what running statistics become of these with the batch.
      step: [] int32, batches before it, as large as it is.
      examples: of a batch.
      sizes: `norms`.
    """
    made = dict(after)
    for path, (momentum, positions) in sizes.items():
        own = [f"{path}/{name}" for name in ("mean", "var")]
        (mean, var), now = ([of[name] for name in own] for of in (before, after))
        batch_mean, batch_var = (old + (new - old) / momentum for old, new in zip((mean, var), now, strict=True))
        count = jnp.float32(examples * positions)
        earlier, apart = step * count, batch_mean - mean
        squares = jnp.maximum(earlier - 1, 0) * var + (count - 1) * batch_var
        squares += apart**2 * earlier * count / (earlier + count)
        found = mean + apart / (step + 1), squares / jnp.maximum(earlier + count - 1, 1)
        still = jnp.all(now[0] == mean) & jnp.all(now[1] == var)  # the config has it keep its statistics
        made |= {name: jnp.where(still, old, new) for name, old, new in zip(own, (mean, var), found, strict=True)}
    return made

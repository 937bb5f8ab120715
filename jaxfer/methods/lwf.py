"""Learning without forgetting: the source's head goes on saying of the new examples what it said of them before.

Li and Hoiem, 2016, "Learning without Forgetting", arXiv:1606.09282, eqs. 1 to 3: loss + trade_off * the mean over the
batch of KL(softmax(old / T) || softmax(new / T)): the paper's cross-entropy less a constant. `old` are the outputs of
a frozen copy of the source in evaluation mode, on the same augmented examples; `new` those of its head, which is
trained on. There is no factor T^2. TLlib's defaults are a trade_off of 4 and T = 3.

The paper's warm-up step (section 3) comes first: the new head alone is trained, then all groups together. It trains the
head until it converges; here `warm_up` is a share of the stage's steps, and 0 leaves it out. In these steps the other
groups have gradients of zero; weight decay still acts on them, and running statistics follow the batches
(`config.weight_decay=0` and `config.norms=((".*", "eval"),)` stop either).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.method import Method, task_loss, without
from jaxfer.models import heads
from jaxfer.models.port import FEATURES, Port
from jaxfer.rules import flatten, unflatten


def method(port: Port, *, source_outputs: int = 0) -> Method:
    """Groups: `head`, `source_head`, `backbone`. Hparams: `trade_off`, `temperature` (T), `warm_up`, the share of the
    steps in which the new head alone is trained (`config.warmup` is another one, of the rates).

    Args:
      port: the model.
      source_outputs: classes of the source, filled in from `config.init`.
    """

    def read(leaves, features):
        return heads.read({path.removeprefix(f"{port.head}/"): leaf for path, leaf in leaves.items()}, features)

    def init(params, key, given):
        extra = {"start": flatten(params), "head": dict(given.head), "norms": given.model_state}
        return {**params, "lwf": unflatten(given.head)}, extra

    def loss(ctx, outputs):
        value, metrics = task_loss(ctx, outputs)
        start, temperature = unflatten(ctx.extra["start"]), ctx.hparams["temperature"]
        old = ctx.forward(start, model_state=ctx.extra["norms"], taps=(FEATURES,)).taps[FEATURES]
        logits = read(ctx.extra["head"], old), read(flatten(ctx.params["lwf"]), ctx.taps[FEATURES])
        apart = divergence(*(x.astype(jnp.float32) for x in logits), temperature)
        return value + ctx.hparams["trade_off"] * apart, {**metrics, "divergence": apart}

    def gradient(next, ctx, trainable):
        gradients, rest = next(trainable)
        alone = ctx.step < jnp.floor(ctx.hparams["warm_up"] * ctx.hparams["total_steps"])
        return {
            path: g if ctx.groups[path] == "head" else jnp.where(alone, jnp.zeros_like(g), g)
            for path, g in gradients.items()
        }, rest

    return Method(
        rules=(("lwf/.*", "source_head"), (f"{port.head}/.*", "head"), (".*", "backbone")),
        source_outputs=source_outputs,
        init=init,
        view=without("lwf"),
        merge=without("lwf"),
        taps=(FEATURES,),
        loss=loss,
        gradient=gradient,
        tasks=("classification",),
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "trade_off": (1.0, (0.3, 1.0, 4.0)),
            "temperature": (2.0, (2.0, 3.0)),
            "warm_up": (0.2, (0.2,)),
        },
        limits={"warm_up": (0.0, 1.0)},
    )


def divergence(old: jax.Array, new: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """[]: the mean of KL(softmax(old / T) || softmax(new / T)) of outputs [batch, classes], in their own type."""
    wanted, given = (jax.nn.log_softmax(x / temperature) for x in (old, new))
    return jnp.mean(jnp.sum(jnp.exp(wanted) * (wanted - given), -1))

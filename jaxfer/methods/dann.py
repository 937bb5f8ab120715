"""Domain-adversarial training: features from which a discriminator can't tell the target from the source.

Ganin et al., 2016, "Domain-Adversarial Training of Neural Networks", arXiv:1505.07818. The discriminator minimises its
binary cross-entropy; a reversed gradient (section 4.2) makes the backbone maximise it. Labels of the target are never
read. The backbone sees both domains in one pass, with batch statistics of both.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxfer.errors import InputError
from jaxfer.method import UNLABELLED, Method, task_loss
from jaxfer.models.port import FEATURES, Port


def method(port: Port, *, hidden: int = 1024, layers: int = 2) -> Method:
    """Groups: `head`, `discriminator`, `backbone`. Reads the stream `target`.

    Args:
      port: the model.
      hidden: width of the discriminator.
      layers: its hidden layers.

    Hparams: `trade_off`, the weight of the discriminator's loss, the mean of both domains' cross-entropies; `slope` of
    the reversed gradient's weight 2 / (1 + exp(-slope * progress)) - 1, progress being steps over the stage's steps.
    """
    if hidden < 1 or layers < 0:
        raise InputError(f"options: expected hidden >= 1 and layers >= 0, found hidden={hidden}, layers={layers}")

    def init(params, key, given):
        if len(port.features) != 1:
            raise InputError(f"dann compares one vector per example, this model's have the shape {port.features}")
        sizes = [*port.features, *[hidden] * layers, 1]
        stack = {}
        for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            kernel = jax.random.normal(jax.random.fold_in(key, i), (fan_in, fan_out)) * jnp.sqrt(2 / fan_in)
            stack[f"layer_{i}"] = {"kernel": kernel, "bias": jnp.zeros(fan_out)}
        return {**params, "discriminator": {port.units[-1]: stack}}, {}

    def view(params, extra):
        return {name: value for name, value in params.items() if name != "discriminator"}

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        progress = ctx.step / ctx.hparams["total_steps"]
        strength = 2 / (1 + jnp.exp(-ctx.hparams["slope"] * progress)) - 1
        source, target = ctx.taps[FEATURES], ctx.streams["target"].taps[FEATURES]
        features = jnp.concatenate([source, target]).astype(jnp.float32)
        logits = _discriminated(ctx.params["discriminator"][port.units[-1]], _reversed(features, strength))
        domain = jnp.concatenate([jnp.ones(len(source)), jnp.zeros(len(target))])
        each = optax.sigmoid_binary_cross_entropy(logits, domain)
        confusion = 0.5 * (each[: len(source)].mean() + each[len(source) :].mean())
        right = ((logits > 0) == (domain > 0)).mean()
        logged = {**logged, "domain_loss": confusion, "domain_accuracy": right}
        return value + ctx.hparams["trade_off"] * confusion, logged

    return Method(
        rules=((f"{port.head}/.*", "head"), ("discriminator/.*", "discriminator"), (".*", "backbone")),
        init=init,
        view=view,
        loss=loss,
        merge=view,
        taps=(FEATURES,),
        streams={"target": UNLABELLED},
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "trade_off": (1.0, (0.1, 0.3, 1.0)),
            "slope": (10.0, (10.0,)),
        },
    )


def _reversed(x, strength):
    """x, whose gradient is multiplied by -strength."""
    return jax.lax.stop_gradient((1 + strength) * x) - strength * x


def _discriminated(stack, x):
    """[batch, features] -> logits [batch]: positive for the source."""
    for i in range(len(stack)):
        layer = stack[f"layer_{i}"]
        x = x @ layer["kernel"] + layer["bias"]
        x = jax.nn.relu(x) if i + 1 < len(stack) else x
    return x[:, 0]

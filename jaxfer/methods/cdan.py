"""CDAN: domain-adversarial training whose discriminator sees features together with predictions.

Long et al., 2018, "Conditional Adversarial Domain Adaptation", arXiv:1705.10667, section 3: as `dann`, on the outer
product of the features and the softmax, or above 4096 numbers on a random projection of it,
(R_f f) * (R_g g) / sqrt(d). CDAN+E weighs examples by 1 + exp(-entropy), so that those the model is sure of come first.

As the paper writes its minimax problem, the model's gradient goes through both the softmax and these weights. The
authors' code stops it at the softmax in the product, as is done here, and lets the reversed one through the weights:
`entropy_gradient`. By default it is stopped at the weights too, as in TLlib: they choose among examples, and the model
is not trained to change them. Configs from before the option mean that form.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method, task_loss, without
from jaxfer.methods import _dense, _domains
from jaxfer.models.port import FEATURES, Port

LARGEST = 4096  # numbers of an outer product


def method(
    port: Port,
    *,
    hidden: int = 1024,
    layers: int = 2,
    entropy: bool = False,
    entropy_gradient: bool | None = None,
    jointly: bool = False,
    random: int = 1024,
    normed: bool = False,
    norms: str = "joint",
) -> Method:
    """Groups: `head`, `discriminator`, `backbone`. Reads the stream `target`.

    Args:
      port: the model.
      hidden: width of the discriminator.
      layers: its hidden layers.
      entropy: CDAN+E: examples that the model is sure of weigh more.
      entropy_gradient: whether the reversed gradient of the discriminator's loss goes through these weights, as in the
        paper's equation and its authors' code; None: it does not, as in TLlib.
      jointly: whether these weights are normalised over both domains at once, as in TLlib, and not over each, as in the
        authors' code.
      random: width of the random projection.
      normed: as in `dann`.
      norms: as in `_domains`: `joint` or `separate`.

    Hparams: `trade_off` and `slope`, as in `dann`.
    """
    if hidden < 1 or layers < 0 or random < 1:
        found = f"hidden={hidden}, layers={layers}, random={random}"
        raise InputError(f"options: expected hidden >= 1, layers >= 0 and random >= 1, found {found}")
    for name, given in (("jointly", jointly), ("entropy_gradient", entropy_gradient)):
        if given and not entropy:
            raise InputError(f"options.{name}: it is about the weights of entropy=True; set that too, or remove it")

    def init(params, key, given):
        _domains.check_vectors("cdan", port)
        (width,), keys = port.features, jax.random.split(key, 3)
        size, maps = width * port.outputs, {}
        if size > LARGEST:
            size = random
            sides = (("features", keys[1], width), ("chances", keys[2], port.outputs))
            maps = {name: jax.random.normal(drawn, (fan_in, random)) for name, drawn, fan_in in sides}
        stack = _dense.drawn(keys[0], [size, *[hidden] * layers, 1], normed=normed)
        return {**params, "discriminator": {port.units[-1]: stack}}, maps

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        source, target = _domains.features(ctx)
        logits = jnp.concatenate([outputs, ctx.streams["target"].outputs]).astype(jnp.float32)
        soft, strength = jax.nn.softmax(logits), _domains.rising(ctx)
        chances = jax.lax.stop_gradient(soft)
        seen = _domains.reverse(conditioned(jnp.concatenate([source, target]), chances, ctx.extra), strength)
        logits = _dense.through(ctx.params["discriminator"][port.units[-1]], seen)[:, 0]
        unsure = _domains.entropies(soft if entropy_gradient else chances)
        weights = 1 + jnp.exp(-_domains.reverse(unsure, strength)) if entropy else None
        confusion, right = _domains.told_apart(logits, len(source), weights, jointly)
        logged = {**logged, "domain_loss": confusion, "domain_accuracy": right}
        return value + ctx.hparams["trade_off"] * confusion, logged

    return Method(
        rules=((f"{port.head}/.*", "head"), ("discriminator/.*", "discriminator"), (".*", "backbone")),
        init=init,
        view=without("discriminator"),
        loss=loss,
        merge=without("discriminator"),
        taps=(FEATURES,),
        streams=_domains.STREAMS,
        separate=_domains.apart(norms),
        tasks=("classification",),
        whole_batch=entropy or normed,
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "trade_off": (1.0, (0.1, 0.3, 1.0)),
            "slope": (10.0, (10.0,)),
        },
    )


def conditioned(features: jax.Array, chances: jax.Array, maps: dict[str, jax.Array]) -> jax.Array:
    """Features [n, width] and chances [n, classes] -> [n, width * classes], or [n, random] with maps of both."""
    if maps:
        return (features @ maps["features"]) * (chances @ maps["chances"]) / jnp.sqrt(maps["features"].shape[1])
    return (features[:, :, None] * chances[:, None, :]).reshape(len(features), -1)

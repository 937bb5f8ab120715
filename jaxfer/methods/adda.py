"""ADDA: an encoder of the target whose features a discriminator can't tell from those of a frozen source network.

Tzeng et al., 2017, "Adversarial Discriminative Domain Adaptation", arXiv:1702.05464, eq. 9. The source's network stays
as it is; the model starts as a copy of it, sees the target alone, and keeps the source's head, which is frozen. The
discriminator minimises -log D(source) - log(1 - D(target)), the model -log D(target): a gradient that is not inverted.
Both take their step at once, at the same parameters, as the authors' code runs both optimisers in one call. Eq. 9 is
two minimisations: with `alternate` the discriminator moves first, and the model sees the one it has become, at the cost
of a second pass. The source's labels are not read.

The stage starts from the network it adapts to: `config.init` and `config.networks.source` name the same run.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Method, SubStep, without
from jaxfer.methods import _dense, _domains
from jaxfer.models.port import FEATURES, Port

TELL, FOOL = SubStep("tell", ("discriminator",)), SubStep("fool", ("backbone",))


def method(port: Port, *, hidden: int = 500, layers: int = 2, alternate: bool | None = None) -> Method:
    """Groups: `backbone`, `discriminator`. Reads the stream `target`. Network: `config.networks.source`.

    Args:
      port: the model.
      hidden: width of the discriminator.
      layers: its hidden layers.
      alternate: whether the discriminator and the model move in turn; None: at once.
    """
    if hidden < 1 or layers < 0:
        raise InputError(f"options: expected hidden >= 1 and layers >= 0, found hidden={hidden}, layers={layers}")
    unit = port.units[-1]

    def init(params, key, given):
        _domains.check_vectors("adda", port)
        return {**params, "discriminator": {unit: _dense.drawn(key, [*port.features, *[hidden] * layers, 1])}}, {}

    def loss(ctx, outputs):
        source = ctx.others["source"](ctx.batch, taps=(FEATURES,)).taps[FEATURES].astype(jnp.float32)
        target = ctx.streams["target"].taps[FEATURES].astype(jnp.float32)
        if source.shape[1:] != target.shape[1:]:
            raise InputError(
                f"adda: the source's features are {list(source.shape[1:])}, the model's {list(target.shape[1:])}; "
                "config.init and config.networks.source name the same run"
            )
        told, fooled, right = adversarial(ctx.params["discriminator"][unit], source, target)
        of_model, of_other = {"target_loss": fooled}, {"domain_loss": told, "domain_accuracy": right}
        if ctx.substep == TELL.name:
            return told, of_other
        if ctx.substep == FOOL.name:
            return fooled, of_model
        return told + fooled, of_other | of_model

    return Method(
        rules=((f"{port.head}/.*", FROZEN), ("discriminator/.*", "discriminator"), (".*", "backbone")),
        init=init,
        view=without("discriminator"),
        merge=without("discriminator"),
        taps=(FEATURES,),
        streams=_domains.STREAMS,
        main=False,
        others=("source",),
        loss=loss,
        substeps=(TELL, FOOL) if alternate else (),
        hparams={"lr": (2e-4, (2e-5, 1e-4, 2e-4))},
    )


def adversarial(stack: dict, source: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(the discriminator's loss, the target encoder's, the share of examples whose domain is found) of features.

    Neither has a gradient for what the other trains.
    """
    still = jax.lax.stop_gradient
    logits = _dense.through(stack, still(jnp.concatenate([source, target])))[:, 0]
    half, right = _domains.told_apart(logits, len(source))
    fooled = optax.sigmoid_binary_cross_entropy(_dense.through(still(stack), target)[:, 0], 1.0).mean()
    return 2 * half, fooled, right

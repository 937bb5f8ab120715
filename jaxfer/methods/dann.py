"""Domain-adversarial training: features from which a discriminator can't tell the target from the source.

Ganin et al., 2016, "Domain-Adversarial Training of Neural Networks", arXiv:1505.07818, section 4.2: loss + d(R(f)), d
being the discriminator's binary cross-entropy, the mean of both domains, and R the identity whose gradient is -lambda
times that of its output. So the discriminator lowers d and the backbone raises it. Labels of the target are never read.
The paper's rates fall as `schedule="annealed"` has it.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method, task_loss, without
from jaxfer.methods import _dense, _domains
from jaxfer.models.port import FEATURES, Port


def method(port: Port, *, hidden: int = 1024, layers: int = 2, normed: bool = False, norms: str = "joint") -> Method:
    """Groups: `head`, `discriminator`, `backbone`. Reads the stream `target`.

    Args:
      port: the model.
      hidden: width of the discriminator.
      layers: its hidden layers.
      normed: whether these are normalised over the batch of both domains, as in TLlib; the paper's are not.
      norms: as in `_domains`: `joint` or `separate`.

    Hparams: `trade_off`, the weight of the discriminator's loss, the mean of both domains' cross-entropies; `slope` of
    the reversed gradient's weight 2 / (1 + exp(-slope * progress)) - 1, progress being steps over the stage's steps.
    """
    if hidden < 1 or layers < 0:
        raise InputError(f"options: expected hidden >= 1 and layers >= 0, found hidden={hidden}, layers={layers}")

    def init(params, key, given):
        _domains.check_vectors("dann", port)
        stack = _dense.drawn(key, [*port.features, *[hidden] * layers, 1], normed=normed)
        return {**params, "discriminator": {port.units[-1]: stack}}, {}

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        source, target = _domains.features(ctx)
        both = _domains.reverse(jnp.concatenate([source, target]), _domains.rising(ctx))
        logits = _dense.through(ctx.params["discriminator"][port.units[-1]], both)[:, 0]
        confusion, right = _domains.told_apart(logits, len(source))
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
        whole_batch=normed,
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "trade_off": (1.0, (0.1, 0.3, 1.0)),
            "slope": (10.0, (10.0,)),
        },
    )

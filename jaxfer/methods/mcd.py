"""MCD: features on which a second head agrees with the first, however the two are set against each other.

Saito et al., 2018, "Maximum Classifier Discrepancy for Unsupervised Domain Adaptation", arXiv:1712.02560, section 3.3.
A step is three updates on the same batch, each at the parameters that the one before left: A, all minimise both heads'
cross-entropy on the source; B, the heads minimise it less their discrepancy on the target, the mean of |p1 - p2|; C,
the backbone minimises the discrepancy, `discrepancy_steps` times. Moments of the heads and the backbone move with their
own updates alone, as with the paper's two optimisers. A step costs 2 + `discrepancy_steps` forward and backward passes.

With form=joint the three are one update, by a reversed gradient: the heads get the sum of the gradients of A and B, the
backbone that of A and `discrepancy_steps` times that of C, all at the same parameters. Under plain SGD that is the
paper's step up to the square of the rate; what C would gain from heads that B has just changed is one step late.

Each domain passes by itself, as in the authors' code on digits; norms=joint is one pass of both, as in TLlib and their
code for VisDA. All updates read both domains, where A needs the source and C the target alone: running statistics
follow them all. With `balance`, A and B add that much of -mean log(mean p) of each head on the target: the paper has it
for VisDA alone, at 0.01, TLlib always. The second head is a linear layer as the first is; what is evaluated and
exported is the first.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method, SubStep, task_loss, without
from jaxfer.methods import _dense, _domains
from jaxfer.models import heads
from jaxfer.models.port import FEATURES, Port
from jaxfer.rules import flatten

FORMS = ("paper", "joint")
LEARN, PART, AGREE = SubStep("learn"), SubStep("part", ("head", "second_head")), SubStep("agree", ("backbone",))


def method(port: Port, *, form: str = "paper", discrepancy_steps: int = 4, norms: str = "separate") -> Method:
    """Groups: `head`, `second_head`, `backbone`. Reads the stream `target`.

    Args:
      port: the model.
      form: `paper`: three updates one after the other; `joint`: one, by a reversed gradient.
      discrepancy_steps: how often C is done in a step.
      norms: as in `_domains`: `separate`, or `joint`, which is TLlib's.

    Hparams: `trade_off`, the weight of the discrepancy in B and C; `balance`, 0.01 in TLlib.
    """
    if form not in FORMS:
        raise InputError(f"options.form: expected {' or '.join(FORMS)}, found {form!r}")
    if discrepancy_steps < 1:
        raise InputError(f"options.discrepancy_steps: expected at least 1, found {discrepancy_steps}")
    unit, under = port.units[-1], f"{port.head}/"

    def init(params, key, given):
        _domains.check_vectors("mcd", port)
        return {**params, "mcd": {unit: _dense.drawn(key, [*port.features, port.outputs])}}, {}

    def both(ctx, features, share=None):
        """Logits of both heads; with a share the heads' gradients are whole, and the features get this part of them."""
        first = {path.removeprefix(under): x for path, x in flatten(ctx.params).items() if path.startswith(under)}
        features = features if share is None else _domains.reverse(features, -share)
        return heads.read(first, features), _dense.through(ctx.params["mcd"][unit], features)

    def in_turn(ctx, outputs):
        source, target = _domains.features(ctx)
        on_target = both(ctx, target)
        apart = discrepancy(*on_target)
        if ctx.substep == AGREE.name:
            return ctx.hparams["trade_off"] * apart, {"discrepancy_left": apart}
        losses = [task_loss(ctx, logits)[0] for logits in both(ctx, source)]
        value = sum(losses) + ctx.hparams["balance"] * sum(map(imbalance, on_target))
        if ctx.substep == PART.name:
            return value - ctx.hparams["trade_off"] * apart, {"discrepancy": apart}
        return value, {"task_loss": losses[0], "second_loss": losses[1]}

    def at_once(ctx, outputs):
        source, target = _domains.features(ctx)
        losses = [task_loss(ctx, logits)[0] for logits in both(ctx, source, 0.5)]
        balance = sum(map(imbalance, both(ctx, target, 0.5)))
        apart = discrepancy(*both(ctx, target, -float(discrepancy_steps)))
        value = 2 * (sum(losses) + ctx.hparams["balance"] * balance) - ctx.hparams["trade_off"] * apart
        return value, {"task_loss": losses[0], "second_loss": losses[1], "discrepancy": apart}

    return Method(
        rules=((f"{port.head}/.*", "head"), ("mcd/.*", "second_head"), (".*", "backbone")),
        init=init,
        view=without("mcd"),
        loss=in_turn if form == "paper" else at_once,
        substeps=(LEARN, PART, *[AGREE] * discrepancy_steps) if form == "paper" else (),
        merge=without("mcd"),
        taps=(FEATURES,),
        streams=_domains.STREAMS,
        separate=_domains.apart(norms),
        tasks=("classification",),
        whole_batch=True,  # the balance is of a batch's mean
        hparams={
            "lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)),
            "trade_off": (1.0, (0.3, 1.0)),
            "balance": (0.0, (0.0, 0.01)),
        },
    )


def discrepancy(first: jax.Array, second: jax.Array) -> jax.Array:
    """[]: the mean over examples and classes of |p1 - p2|, of logits [batch, classes] of both heads."""
    return jnp.abs(jax.nn.softmax(first) - jax.nn.softmax(second)).mean()


def imbalance(logits: jax.Array) -> jax.Array:
    """[]: -mean log of the batch's mean chances of the classes, least where all are alike; the log is of 1e-6 more."""
    return -jnp.log(jax.nn.softmax(logits).mean(0) + 1e-6).mean()

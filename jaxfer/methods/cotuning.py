"""Co-tuning: the source's head is trained on too, towards what the source's classes say of the target's.

You et al., 2020, "Co-Tuning for Transfer Learning", NeurIPS, eq. 2: CE(target head, y_t) + trade_off * CE(source head,
p(y_s | y_t)). The relation p(y_s | y_t) is the mean of the source head's softmax over the training examples of each
target class, on the source's features (the paper's direct approach, section 3.2, and TLlib's); `relation=reverse` is
its other one, which the authors' code has: p(y_t | y_s) is learned and turned round by Bayes' rule (`_relation.py`).
The paper calibrates the source head first: its outputs are divided by the temperature at which they are likeliest on
validation data of the source. The run reads no such data, so that temperature is an option, for the relation alone, as
there; `jaxfer eval SOURCE --temperature` finds it for a source that is a run. At 1 it is left out, as in TLlib.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfer.errors import InputError
from jaxfer.method import Measured, Method, task_loss, without
from jaxfer.methods._relation import reverse
from jaxfer.models import heads
from jaxfer.models.chain import check_choice
from jaxfer.models.port import FEATURES, Port
from jaxfer.rules import flatten, unflatten

RELATIONS = ("direct", "reverse")


def method(port: Port, *, source_outputs: int = 0, temperature: float = 1.0, relation: str = "direct") -> Method:
    """Groups: `head`, `source_head` (at 0.1 of the rate), `backbone`. Hparam: `trade_off`.

    Args:
      port: the model.
      source_outputs: classes of the source, filled in from `config.init`.
      temperature: of the source's head, above 1 where it is surer than it is right.
      relation: `direct`, a mean for each target class, or `reverse`, by Bayes' rule.
    """
    check_choice("options.relation", relation, RELATIONS)
    if not 0 < temperature < math.inf:
        raise InputError(f"config.options.temperature: expected a number above 0, found {temperature}; 1 is none")

    def layer(leaves):
        return {path.removeprefix(f"{port.head}/"): leaf for path, leaf in leaves.items()}

    def measure(ctx, given):  # [batch, target classes, source classes] and [batch, target classes]
        chances = jax.nn.softmax(heads.read(layer(given.head), ctx.taps[FEATURES]) / temperature)
        if relation == "reverse":
            return {"chances": chances, "label": ctx.batch["label"]}
        of_class = jax.nn.one_hot(ctx.batch["label"], port.outputs)
        return {"chances": of_class[:, :, None] * chances[:, None, :], "share": of_class}

    def init(params, key, given):
        found = given.measured
        table = found if relation == "reverse" else found["chances"] / found["share"][:, None]
        return {**params, "cotuning": unflatten(given.head)}, {"relation": table}

    def of_rows(rows):
        labels = rows["label"].astype(np.int64)
        return reverse(rows["chances"], labels, port.outputs).astype(np.float32)

    shape = (port.outputs, source_outputs or port.outputs)
    view = without("cotuning")

    def loss(ctx, outputs):
        value, metrics = task_loss(ctx, outputs)
        logits = heads.read(layer(flatten(ctx.params["cotuning"])), ctx.taps[FEATURES])
        wanted = ctx.extra["relation"][ctx.batch["label"]]
        source = jnp.mean(optax.softmax_cross_entropy(logits, wanted))
        return value + ctx.hparams["trade_off"] * source, {**metrics, "source_loss": source}

    return Method(
        rules=(("cotuning/.*", "source_head"), (f"{port.head}/.*", "head"), (".*", "backbone")),
        source_outputs=source_outputs,
        measure=measure,
        measured_as=None if relation == "direct" else Measured(jax.ShapeDtypeStruct(shape, "float32"), of_rows),
        init=init,
        view=view,
        merge=view,
        taps=(FEATURES,),
        loss=loss,
        tasks=("classification",),
        scales={"source_head": 0.1},
        hparams={"lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)), "trade_off": (2.3, (0.5, 1.0, 2.3))},
    )

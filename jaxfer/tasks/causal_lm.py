"""Causal language modelling: each token from those before it. It needs no labels, and ignores those there are."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfer.data.encoding import Draw, Fields
from jaxfer.data.split import Split
from jaxfer.task import Batch, Mean, Task

NONE = -1  # the target of a place after which no token of the text comes
LARGEST = 700.0  # loss whose perplexity is a float


def task() -> Task:
    """Softmax over the vocabulary for the token after each of a text (Radford et al., 2018, eq. 1).

    Means are over all tokens but the first of each text, those that the tokenizer adds included; padding has no part.
    """
    return Task(
        outputs=lambda classes: 0,
        head="next",
        target="text",
        shapes=lambda n, outputs, fields: {"next": fields["input_ids"]},
        targets=_targets,
        loss=lambda outputs, batch, hparams: _cross_entropy(outputs, batch),
        scores=_scores,
        collect=lambda outputs, batch: _cross_entropy(outputs, batch)._asdict(),
        gathered=_gathered,
        monitor="loss",
        metrics={"token_accuracy": True, "perplexity": False},
    )


def _targets(split: Split, rows: np.ndarray, encoded: Fields, draw: Draw | None) -> Fields:
    """int32 [b, length]: `next`, the token after each, else `NONE`."""
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    after = np.full_like(ids, NONE)
    after[:, :-1] = np.where(mask[:, 1:] > 0, ids[:, 1:], NONE)
    return {"next": after}


def _cross_entropy(outputs: jax.Array, batch: Batch) -> Mean:
    kept = batch["next"] != NONE
    true = jnp.where(kept, batch["next"], 0)
    return Mean.over(optax.softmax_cross_entropy_with_integer_labels(outputs.astype(jnp.float32), true), kept)


def _scores(outputs: jax.Array, batch: Batch) -> dict[str, Mean]:
    hit = (outputs.argmax(-1) == batch["next"]).astype(jnp.float32)
    return {"loss": _cross_entropy(outputs, batch), "token_accuracy": Mean.over(hit, batch["next"] != NONE)}


def _gathered(losses: Mapping[str, np.ndarray], split: Split) -> dict[str, float]:
    """Perplexity: e to the mean loss of all predicted tokens of the split."""
    return {"perplexity": math.exp(min(Mean.of([Mean(**losses)]), LARGEST))}

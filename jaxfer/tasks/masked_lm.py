"""Masked language modelling: the tokens that were hidden in a text. It needs no labels, and ignores those there are."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import optax

from jaxfer.data.encoding import Draw, Fields
from jaxfer.data.encodings.tokens import Vocabulary
from jaxfer.data.order import Stream, row_rng
from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.task import Mean, Task

NONE = -1  # the target of a token that was not chosen
LARGEST = 700.0  # loss whose perplexity is a float
HIDDEN, SWAPPED = 0.8, 0.1  # shares of the chosen tokens that become the mask, and any token; the others are kept


def task(*, rate: float = 0.15, whole_word: bool = False) -> Task:
    """Softmax over the vocabulary at the chosen tokens (Devlin et al., 2018, arXiv:1810.04805, 3.1 and A.1).

    Of the chosen tokens 80 % become the mask, 10 % a random token, 10 % stay. Each training batch has its own choice,
    by (seed, step, position); in evaluation it is the row's, so that every evaluation hides the same tokens.

    Args:
      rate: share of the tokens that are chosen, rounded, at least one of each text; never special ones.
      whole_word: choose that share of the words, with all of their tokens.
    """
    if not 0 < rate <= 1:
        raise InputError(f"config.task.rate: expected a share above 0, at most 1, found {rate}; 0.15 is BERT's")
    return Task(
        outputs=lambda classes: 0,
        head="vocab",
        target="text",
        words=True,
        shapes=lambda n, outputs, fields: {"masked": fields["input_ids"]},
        targets=functools.partial(_targets, rate=rate, whole_word=whole_word),
        loss=lambda outputs, batch, hparams: _cross_entropy(outputs, batch),
        scores=_scores,
        collect=lambda outputs, batch: _cross_entropy(outputs, batch)._asdict(),
        gathered=_gathered,
        monitor="loss",
        metrics={"token_accuracy": True, "perplexity": False},
    )


def _targets(
    split: Split, rows: np.ndarray, encoded: Fields, draw: Draw | None, *, rate: float, whole_word: bool
) -> Fields:
    """int32 [b, length]: `input_ids` with hidden tokens; `masked`, the true token of the chosen ones, else `NONE`."""
    ids, words, vocabulary = encoded["input_ids"].copy(), encoded["words"], encoded["vocabulary"]
    if vocabulary.mask is None:
        raise InputError(
            "task 'masked_lm' needs a tokenizer with a mask token, config.model.tokenizer has none; choose another "
            "task or model"
        )
    free = (words != NONE) & ~np.isin(ids, vocabulary.special)
    masked = np.full_like(ids, NONE)
    for i, row in enumerate(rows):
        rng = row_rng(int(split.rows[row]), Stream.MASK) if draw is None else draw.rng(i, Stream.MASK)
        places = _chosen(np.flatnonzero(free[i]), words[i], rng, rate, whole_word)
        masked[i, places] = ids[i, places]
        ids[i, places] = _hidden(ids[i, places], vocabulary, rng)
    return {"input_ids": ids, "masked": masked}


def _chosen(
    places: np.ndarray, words: np.ndarray, rng: np.random.Generator, rate: float, whole_word: bool
) -> np.ndarray:
    """Those of the places [n] that are chosen; numbers are drawn for these alone, whatever a text is padded to."""
    if not len(places):
        return places
    # Places side by side in one word are one part; the words of a pair's second text count from 0 again.
    begins = (np.diff(places) > 1) | (np.diff(words[places]) != 0) if whole_word else np.ones(len(places) - 1, bool)
    part = np.concatenate([[0], np.cumsum(begins)])
    order = np.argsort(rng.random(part[-1] + 1), kind="stable")
    return places[np.isin(part, order[: max(1, round(rate * len(order)))])]


def _hidden(tokens: np.ndarray, vocabulary: Vocabulary, rng: np.random.Generator) -> np.ndarray:
    """What stands in place of the chosen tokens [n]."""
    fate, other = rng.random(len(tokens)), rng.integers(vocabulary.rows, size=len(tokens))
    return np.where(fate < HIDDEN, vocabulary.mask, np.where(fate < HIDDEN + SWAPPED, other, tokens))


def _cross_entropy(outputs, batch):
    kept = batch["masked"] != NONE
    true = jnp.where(kept, batch["masked"], 0)
    return Mean.over(optax.softmax_cross_entropy_with_integer_labels(outputs.astype(jnp.float32), true), kept)


def _scores(outputs, batch):
    hit = (outputs.argmax(-1) == batch["masked"]).astype(jnp.float32)
    return {"loss": _cross_entropy(outputs, batch), "token_accuracy": Mean.over(hit, batch["masked"] != NONE)}


def _gathered(losses: Mapping[str, np.ndarray], split: Split) -> dict[str, float]:
    """Perplexity: e to the mean loss of all chosen tokens of the split."""
    return {"perplexity": math.exp(min(Mean.of([Mean(**losses)]), LARGEST))}

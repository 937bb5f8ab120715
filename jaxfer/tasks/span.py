"""Extractive question answering: the answer is a part of a text, by its first and its last token."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfer.data.encoding import Draw, Encoding, Fields
from jaxfer.data.encodings.windows import Window, windowed
from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.task import Answer, Mean, Shapes, Task

FIRST = 0  # [CLS], where the targets of a window without the answer point
LOWEST = -1e30  # of a token that can't be chosen; two of them are still finite


def task(*, longest: int = 30, stride: int = 64) -> Task:
    """The start and the end of the answer, as Devlin et al. (2018, arXiv:1810.04805, 4.2) have it for SQuAD v1.1.

    A context that is too long is read in windows, and its answer is the best span of all of them, by the sum of both
    logits. Windows without the whole answer point to [CLS]. Training takes the first of several answers. Metrics are
    those of SQuAD v1.1's script, as fractions: `exact_match`, and `f1` over words.

    Args:
      longest: tokens of the longest answer.
      stride: tokens that two neighbouring windows share.
    """
    if longest < 1 or stride < 0:
        found = f"longest={longest}, stride={stride}"
        raise InputError(f"expected config.task.longest >= 1 and config.task.stride >= 0, found {found}")

    def expand(split: Split, encodings: Sequence[Encoding]) -> Split:
        if "spans" not in split.columns and len(split.columns) > 1:  # `predict` gives texts alone
            kinds = ", ".join(column.kind for column in split.columns.values())
            raise InputError(f"task 'span' needs questions with answers, the data has {kinds}; use data.source=squad")
        return windowed(split, encodings[0], stride)

    return Task(
        outputs=_outputs,
        head="token",
        target="spans",
        shapes=_shapes,
        targets=_targets,
        expand=expand,
        merge=_merge,
        loss=lambda outputs, batch, hparams: _cross_entropy(outputs, batch),
        scores=lambda outputs, batch: {"loss": _cross_entropy(outputs, batch)},
        collect=_best(longest),
        gathered=_gathered,
        answer=lambda found, classes, pair: Answer(text=pair[1][int(found["start"]) : int(found["end"])]),
        monitor="f1",
        maximize=True,
        metrics={"exact_match": True},
    )


def _outputs(classes: int) -> int:
    if classes:
        raise InputError(f"task 'span' needs questions with answers, the data has {classes} classes; use another task")
    return 2


def _shapes(n: int, outputs: int, fields: Shapes) -> Shapes:
    place = jax.ShapeDtypeStruct((n,), "int32")
    return {"start": place, "end": place, "context": fields["input_ids"]}


def _targets(split: Split, rows: np.ndarray, encoded: Fields, draw: Draw | None) -> Fields:
    """int32: `start` and `end` [b], the answer's first and last token; `context` [b, length], 1 where it may be.

    Data without answers, which are asked for, point to the first token.
    """
    context = np.zeros_like(encoded["input_ids"])
    places = np.full((len(rows), 2), FIRST, np.int32)
    for i, row in enumerate(rows):
        window = split.example("text", row)
        context[i, : len(window.begins)] = window.begins >= 0
        if "spans" in split.columns:
            start, text = split.example("spans", row)[0]
            places[i] = _tokens(window, start, start + len(text))
    return {"start": places[:, 0], "end": places[:, 1], "context": context}


def _tokens(window: Window, start: int, end: int) -> tuple[int, int]:
    """The first and the last token of the characters from `start` up to `end`; `FIRST` twice if not all are here."""
    context = np.flatnonzero(window.begins >= 0)
    if not len(context) or window.begins[context[0]] > start or window.ends[context[-1]] < end:
        return FIRST, FIRST
    inside = context[(window.ends[context] > start) & (window.begins[context] < end)]
    return (int(inside[0]), int(inside[-1])) if len(inside) else (FIRST, FIRST)


def _cross_entropy(outputs, batch):
    """Mean of both ends' cross-entropies over the tokens of the window."""
    kept = batch["attention_mask"][:, :, None] > 0
    logits = jnp.where(kept, outputs.astype(jnp.float32), LOWEST)
    place = jnp.stack([batch["start"], batch["end"]], -1)
    return Mean(optax.softmax_cross_entropy_with_integer_labels(logits.swapaxes(1, 2), place).mean(-1))


def _best(longest: int) -> Callable[..., dict[str, jax.Array]]:
    """The span with the highest sum of logits: (outputs [b, length, 2], batch) -> its tokens and that sum, [b] each."""

    def best(outputs, batch):
        logits = jnp.where(batch["context"][:, :, None] > 0, outputs.astype(jnp.float32), LOWEST)
        start, end = logits[..., 0], logits[..., 1]
        count = min(longest, end.shape[1])
        padded = jnp.pad(end, ((0, 0), (0, count - 1)), constant_values=LOWEST)
        ends = jnp.stack([padded[:, i : i + end.shape[1]] for i in range(count)], -1)  # [b, length, tokens - 1]
        total = (start[:, :, None] + ends).reshape(len(end), -1)
        place = total.argmax(-1)
        first = (place // count).astype(jnp.int32)
        return {"start": first, "end": first + (place % count).astype(jnp.int32), "score": total.max(-1)}

    return best


def _merge(found: Mapping[str, np.ndarray], windows: Split) -> dict[str, np.ndarray]:
    """Spans of windows, in tokens -> the best of each example, in characters of its context."""
    examples = windows.columns["text"].examples[windows.rows]
    groups = np.split(np.arange(len(examples)), np.flatnonzero(np.diff(examples)) + 1)
    best = np.asarray([rows[found["score"][rows].argmax()] for rows in groups])  # NaN is the most, and is reported
    return {
        "start": np.asarray([windows.example("text", row).begins[found["start"][row]] for row in best]),
        "end": np.asarray([windows.example("text", row).ends[found["end"][row]] for row in best]),
        "score": found["score"][best],
    }


def _gathered(found: Mapping[str, np.ndarray], split: Split) -> dict[str, float]:
    """Means over the questions; an answer's score is the best of those with each of the true ones."""
    exact, f1 = [], []
    for row, (start, end) in enumerate(zip(found["start"], found["end"], strict=True)):
        answer = split.example("text", row)[1][start:end]
        truths = [text for _, text in split.example("spans", row)]
        exact.append(max(normalized(answer) == normalized(truth) for truth in truths))
        f1.append(max(word_f1(answer, truth) for truth in truths))
    return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(f1))}


def normalized(text: str) -> str:
    """Lower case without ASCII punctuation, English articles and extra spaces, in the script's order."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def word_f1(answer: str, truth: str) -> float:
    """F1 of the answer's words, each as often as it occurs, and the true ones; 0 without a common word."""
    words, true = normalized(answer).split(), normalized(truth).split()
    common = sum((Counter(words) & Counter(true)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(true)
    return 2 * precision * recall / (precision + recall)

"""A tag for every word: named entities, parts of speech. Loss at the first piece of each word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import optax

from jaxfer.data.encoding import Draw, Fields
from jaxfer.data.encodings.text import Words
from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.task import Answer, Mean, Task

NONE = -1  # the tag of a token that has none: special, padding, or not the first piece of its word
OUTSIDE = "O"


def task() -> Task:
    """Softmax over the tags at the first piece of each word, as Devlin et al. (2018, arXiv:1810.04805, 5.3) have it.

    Metrics are those of the CoNLL 2003 script, as `seqeval` computes them by default: an entity counts if its type and
    both of its ends are right. Words that were cut off are answered with `O`.
    """
    return Task(
        outputs=_outputs,
        head="token",
        target="tags",
        words=True,
        phrase=lambda column: Words(tuple(tuple(text.split()) for text in column.first)),
        shapes=lambda n, outputs, fields: dict.fromkeys(("tags", "words"), fields["input_ids"]),
        targets=_targets,
        loss=lambda outputs, batch, hparams: _cross_entropy(outputs, batch),
        scores=_scores,
        collect=lambda outputs, batch: {"tags": outputs.argmax(-1).astype(jnp.int32), "words": batch["words"]},
        gathered=_gathered,
        answer=_answer,
        monitor="entity_f1",
        maximize=True,
        metrics={"word_accuracy": True, "entity_precision": True, "entity_recall": True},
    )


def _outputs(classes: int) -> int:
    if classes < 2:
        raise InputError(f"task 'tagging' needs at least 2 tags, the data has {classes}; use data with a tag a word")
    return classes


def _targets(split: Split, rows: np.ndarray, encoded: Fields, draw: Draw | None) -> Fields:
    """int32 [b, length]: `words`, the word whose first piece a token is, and `tags`, that word's; else `NONE`.

    Data without tags, whose answers are asked for, have the first tag everywhere.
    """
    words = encoded["words"]
    first = words != np.pad(words, ((0, 0), (1, 0)), constant_values=NONE)[:, :-1]
    words, tags = np.where(first, words, NONE), np.full(words.shape, NONE, np.int32)
    for i, row in enumerate(rows):
        kept = words[i] != NONE
        tags[i, kept] = split.example("tags", row)[words[i, kept]] if "tags" in split.columns else 0
    return {"tags": tags, "words": words}


def _cross_entropy(outputs, batch):
    kept = batch["tags"] != NONE
    nll = optax.softmax_cross_entropy_with_integer_labels(
        outputs.astype(jnp.float32), jnp.where(kept, batch["tags"], 0)
    )
    return Mean.over(nll, kept)


def _scores(outputs, batch):
    hit = (outputs.argmax(-1) == batch["tags"]).astype(jnp.float32)
    return {"loss": _cross_entropy(outputs, batch), "word_accuracy": Mean.over(hit, batch["tags"] != NONE)}


def _gathered(predicted: Mapping[str, np.ndarray], split: Split) -> dict[str, float]:
    """Precision, recall and F1 over all entities of the split (micro averages)."""
    names, found, right, wanted = split.columns["tags"].names, 0, 0, 0
    for row, (tags, words) in enumerate(zip(predicted["tags"], predicted["words"], strict=True)):
        gold = [names[tag] for tag in split.example("tags", row)]
        true, guessed = set(entities(gold)), set(entities(by_word(tags, words, len(gold), names)))
        found, wanted, right = found + len(guessed), wanted + len(true), right + len(true & guessed)
    precision, recall = right / found if found else 0.0, right / wanted if wanted else 0.0
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return {"entity_precision": precision, "entity_recall": recall, "entity_f1": f1}


def entities(tags: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """(type, first word, last word) of each entity in IOB1 or IOB2 tags, as the CoNLL 2003 script reads both.

    An entity begins at `B-`, and at an `I-` that does not continue one of the same type.
    """
    begin, kind = 0, ""
    for i, tag in enumerate((*tags, OUTSIDE)):
        prefix, _, now = tag.partition("-")
        if kind and (prefix != "I" or now != kind):
            yield kind, begin, i - 1
            kind = ""
        if prefix in ("B", "I") and not kind:
            begin, kind = i, now


def by_word(tags: np.ndarray, words: np.ndarray, count: int, names: Sequence[str]) -> list[str]:
    """The tag of each of so many words; `O` where a word has no token."""
    answer = [OUTSIDE] * count
    for place in np.flatnonzero(words != NONE):
        answer[words[place]] = names[tags[place]]
    return answer


def _answer(predicted: Mapping[str, np.ndarray], classes: Sequence[str], words: Sequence[str]) -> Answer:
    named = by_word(predicted["tags"], predicted["words"], len(words), classes)
    return Answer(spans=tuple((" ".join(words[begin : end + 1]), kind) for kind, begin, end in entities(named)))

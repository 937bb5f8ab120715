"""Entities and their scores against seqeval, which is the CoNLL 2003 script in Python."""

from __future__ import annotations

import numpy as np
import pytest

from jaxfer.data.encodings.text import Words
from jaxfer.data.sources.conll import Tags
from jaxfer.data.split import Split
from jaxfer.registry import TASKS
from jaxfer.tasks.tagging import entities

seqeval = pytest.importorskip("seqeval.metrics", reason="seqeval is in the extra `parity`")
NAMES = ("O", "B-a", "I-a", "B-b", "I-b")


def drawn(rng, sentences):
    """Random tags, valid or not: IOB1, IOB2, and an I- after another type."""
    return [rng.integers(len(NAMES), size=rng.integers(1, 12)).astype(np.int32) for _ in range(sentences)]


@pytest.mark.parametrize("seed", range(5))
def test_precision_recall_and_f1(seed):
    rng = np.random.default_rng(seed)
    gold = drawn(rng, 60)
    noise = [np.where(rng.random(len(tags)) < 0.7, tags, rng.integers(len(NAMES), size=len(tags))) for tags in gold]
    longest = max(map(len, gold))
    padded = [np.pad(tags, (0, longest - len(tags))) for tags in noise]
    words = [np.pad(np.arange(len(tags)), (0, longest - len(tags)), constant_values=-1) for tags in noise]
    split = Split.whole(text=Words(tuple(("w",) * len(tags) for tags in gold)), tags=Tags(NAMES, tuple(gold)))
    found = TASKS.make("tagging").gathered({"tags": np.stack(padded), "words": np.stack(words)}, split)
    true, guessed = ([[NAMES[tag] for tag in tags] for tags in sequences] for sequences in (gold, noise))
    assert found == pytest.approx(
        {
            "entity_precision": seqeval.precision_score(true, guessed),
            "entity_recall": seqeval.recall_score(true, guessed),
            "entity_f1": seqeval.f1_score(true, guessed),
        },
        abs=1e-12,
    )


def test_entities():
    from seqeval.metrics.sequence_labeling import get_entities

    for tags in drawn(np.random.default_rng(9), 200):
        names = [NAMES[tag] for tag in tags]
        assert sorted(entities(names)) == sorted(get_entities(names))

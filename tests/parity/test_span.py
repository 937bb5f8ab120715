"""Exact match and F1 of answers against torchmetrics, which computes what SQuAD's official script computes.

But for two answers without a word left, such as "the" and "a": their F1 is 0 in the script for v1.1 and in this task (a
case of tests/tasks/test_span.py), and 1 in torchmetrics, as in the script for v2.0.
"""

from __future__ import annotations

import numpy as np
import pytest

from jaxfer.data.encodings.text import texts
from jaxfer.data.sources.squad import Spans
from jaxfer.data.split import Split
from jaxfer.registry import TASKS

squad = pytest.importorskip("torchmetrics.functional.text", reason="torchmetrics is in the extra `parity`").squad
WORDS = ("a", "An", "the", "The", "U.S.", "1,000", "café", "it's", "its", "—", "(b)", "and", "Anna", "theatre", "x-y")


def drawn(rng, examples):
    """(contexts, the true spans of each, a found span of each, in characters): half of those found are true ones."""
    contexts, truths, found = [], [], []
    for _ in range(examples):
        words = rng.choice(WORDS, size=rng.integers(4, 20))
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        begins = ends - [len(word) for word in words]

        def span(words=words, begins=begins, ends=ends):
            while True:
                first, last = sorted(rng.integers(len(ends), size=2))
                if not {"a", "An", "the", "The", "—"}.issuperset(words[first : last + 1]):
                    return int(begins[first]), int(ends[last])

        spans = [span() for _ in range(rng.integers(1, 4))]
        contexts.append(" ".join(words))
        truths.append(spans)
        found.append(spans[0] if rng.random() < 0.5 else span())
    return contexts, truths, found


@pytest.mark.parametrize("seed", range(5))
def test_exact_match_and_f1(seed):
    contexts, truths, found = drawn(np.random.default_rng(seed), 100)
    true = [[context[begin:end] for begin, end in spans] for context, spans in zip(contexts, truths, strict=True)]
    answers = [context[begin:end] for context, (begin, end) in zip(contexts, found, strict=True)]
    expected = squad(
        [{"prediction_text": answer, "id": str(i)} for i, answer in enumerate(answers)],
        [{"answers": {"text": t, "answer_start": [0] * len(t)}, "id": str(i)} for i, t in enumerate(true)],
    )
    begins, ends = map(np.asarray, zip(*found, strict=True))
    spans = Spans(tuple(tuple((0, text) for text in answers) for answers in true))
    split = Split.whole(text=texts(("?",) * len(contexts), tuple(contexts)), spans=spans)
    actual = TASKS.make("span").gathered({"start": begins, "end": ends}, split)
    # torchmetrics counts per cent in float32.
    assert 100 * actual["exact_match"] == pytest.approx(float(expected["exact_match"]), rel=1e-6)
    assert 100 * actual["f1"] == pytest.approx(float(expected["f1"]), rel=1e-6)

"""The page of answers: how many are right in part and their order by hand, and that both are the run's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxfer.data.encodings.text import texts
from jaxfer.data.sources.squad import Spans
from jaxfer.data.split import Split
from jaxfer.reports.mistakes import span
from tests.reports.mistakes.read import listed, reported, whole

QUESTIONS = str(Path(__file__).parents[2] / "data/questions")


def test_counts_and_order_by_hand():
    """One answer is exact but for an article, one has a word of two, two have none; the surest mistake first."""
    context = "the red house by the sea"
    answers = (((0, "the red house"),), ((4, "red house"),), ((21, "sea"), (17, "the sea")), ((4, "red"),))
    split = Split.whole(text=texts(("a?", "b?", "c?", "d?"), (context,) * 4), spans=Spans(answers))
    found = {"start": np.array([4, 4, 4, 8]), "end": np.array([13, 7, 7, 13]), "score": np.array([9.0, 1.0, 3.0, 2.0])}
    section = span.section(split, found)
    assert section.title == "3 of 4 answers of val are not exact, and 2 share no word"
    counts = {row["answer"]: row["questions"] for row in listed(whole(section), "answers")}
    assert counts == {"exact": "1", "some of the words": "1", "none of the words": "2"}
    rows = listed(whole(section), "mistakes")
    assert [row["row"] for row in rows] == ["2", "3", "1"]
    assert [(row["answer"], row["true answers"]) for row in rows] == [
        ("red", "sea / the sea"),
        ("house", "red"),
        ("red", "red house"),
    ]
    assert [float(row["F1"]) for row in rows] == pytest.approx([0, 0, 2 / 3])


def test_no_mistake():
    split = Split.whole(text=texts(("a?",), ("red",)), spans=Spans((((0, "red"),),)))
    found = {"start": np.array([0]), "end": np.array([3]), "score": np.array([1.0])}
    assert "There is no mistake on val." in whole(span.section(split, found))


@pytest.mark.system
def test_the_page_of_a_run(tmp_path):
    data = dict(source="squad", path=QUESTIONS)
    metrics, page = reported(
        tmp_path / "run", "bert_mean", dict(name="span", stride=4), data, max_length=24, positions=24, buckets=(24,)
    )
    counts = [int(row["questions"]) for row in listed(page, "answers")]
    assert counts[0] / sum(counts) == pytest.approx(metrics["exact_match"])
    assert len(listed(page, "mistakes")) == min(sum(counts[1:]), 24)

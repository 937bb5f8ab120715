"""The page of tags: each kind's counts and the sentences by hand, and that both are the run's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxfer.data.encodings.text import Words
from jaxfer.data.sources.conll import Tags
from jaxfer.data.split import Split
from jaxfer.reports.mistakes import tagging
from tests.reports.mistakes.read import listed, reported, whole

TAGGED = str(Path(__file__).parents[2] / "data/tagged")


def read(names, true, found, sentences):
    """What the page makes of tags, those that are found at the words of as many tokens."""
    tags = Tags(names, tuple(np.array(line, np.int32) for line in true))
    split = Split.whole(text=Words(tuple(tuple(line.split()) for line in sentences)), tags=tags)
    longest = max(map(len, found))
    padded = np.array([[*line, *[-1] * (longest - len(line))] for line in found])
    words = np.where(padded < 0, -1, np.arange(longest))
    return split, tagging.sentences(split, {"tags": padded, "words": words})


def test_counts_and_order_by_hand():
    """One place is found, one is cut short, a person is missed and one is not there."""
    names = ("O", "B-LOC", "I-LOC", "B-PER")
    sentences = ("Rome is old", "New York City and Ann", "the end")
    split, found = read(names, [[1, 0, 0], [1, 2, 2, 0, 3], [0, 0]], [[1, 0, 0], [1, 2, 0, 0, 0], [0, 3]], sentences)
    section = tagging.section(split, found)
    assert section.title == "1 of the 3 entities of val are found, and 2 that are not there"
    kinds = {
        row["kind"]: [row[k] for k in ("in val", "found", "missed", "not there")]
        for row in listed(whole(section), "kinds")
    }
    assert kinds == {"LOC": ["2", "1", "1", "1"], "PER": ["1", "0", "1", "1"]}
    scores = {row["kind"]: float(row["F1"]) for row in listed(whole(section), "kinds")}
    assert scores == pytest.approx({"LOC": 2 / 4, "PER": 0})
    rows = listed(whole(section), "mistakes")
    assert [(row["row"], row["mistakes"]) for row in rows] == [("1", "3"), ("2", "1")]
    assert (rows[0]["missed"], rows[0]["not there"]) == ("New York City (LOC), Ann (PER)", "New York (LOC)")


def test_tags_without_places_are_of_words():
    """Parts of speech: every word counts."""
    split, found = read(("NOUN", "VERB"), [[0, 1], [0, 1]], [[0, 1], [1, 1]], ("dogs bark", "cats sleep"))
    assert tagging.section(split, found).title == "3 of the 4 entities of val are found, and 1 that are not there"
    split, found = read(("NOUN", "VERB"), [[0, 1]], [[0, 1]], ("dogs bark",))
    assert "There is no mistake on val." in whole(tagging.section(split, found))


def test_nothing_to_find():
    split, found = read(("O", "B-LOC"), [[0, 0]], [[0, 0]], ("no place",))
    section = tagging.section(split, found)
    assert section.title.startswith("0 of the 0 entities") and "There is no mistake on val." in whole(section)


@pytest.mark.system
def test_the_page_of_a_run(tmp_path):
    data = dict(source="conll", path=TAGGED)
    metrics, page = reported(tmp_path / "run", "bert_mean", dict(name="tagging"), data)
    right, missed, extra = (sum(int(row[k]) for row in listed(page, "kinds")) for k in ("found", "missed", "not there"))
    assert right + missed > 0
    assert metrics["entity_recall"] == pytest.approx(right / (right + missed))
    f1 = 2 * right / (2 * right + missed + extra)
    assert metrics["entity_f1"] == pytest.approx(f1)
    assert sum(int(row["mistakes"]) for row in listed(page, "mistakes")) == missed + extra

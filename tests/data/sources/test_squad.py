"""Questions and answers from JSON lines and from SQuAD's own JSON."""

from __future__ import annotations

import json

import pytest

from jaxfer.conformance import sources
from jaxfer.data.sources.squad import source
from jaxfer.errors import InputError

CONTEXT = "Zoë 🙂 wrote “Naïve” in 1843."
GOOD = {"id": "q1", "question": "Who?", "context": CONTEXT, "answers": [{"text": "Zoë 🙂", "start": 0}]}
LATER = {**GOOD, "id": "q2", "answers": [{"text": "Naïve", "start": 13}, {"text": "“Naïve”", "start": 12}]}


def written(folder, *rows, name="train.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.mark.parametrize("check", sources.PROPERTIES, ids=lambda check: check.__name__)
def test_it_keeps(check):
    assert check(source(path="tests/data/questions")) is None


def test_starts_count_unicode_characters(tmp_path):
    data = source(path=written(tmp_path, GOOD, LATER))
    train = data.splits["train"]
    assert data.classes == () and train.columns["spans"].kind == "spans"
    assert [train.example("text", row) for row in range(2)] == [("Who?", CONTEXT)] * 2
    assert train.example("spans", 1) == ((13, "Naïve"), (12, "“Naïve”"))


def test_squads_own_json_and_hugging_faces_lists_are_the_same_data(tmp_path):
    lines = source(path=written(tmp_path, GOOD, LATER))
    for folder in ("own", "hub"):
        (tmp_path / folder).mkdir()
    asked = [
        {
            "id": row["id"],
            "question": row["question"],
            "answers": [{"text": a["text"], "answer_start": a["start"]} for a in row["answers"]],
        }
        for row in (GOOD, LATER)
    ]
    article = {"title": "t", "paragraphs": [{"context": CONTEXT, "qas": asked}]}
    (tmp_path / "own/train.json").write_text(json.dumps({"version": "1.1", "data": [article]}))
    listed = [
        {
            **row,
            "answers": {
                "text": [a["text"] for a in row["answers"]],
                "answer_start": [a["start"] for a in row["answers"]],
            },
        }
        for row in (GOOD, LATER)
    ]
    own, hub = source(path=str(tmp_path / "own")), source(path=written(tmp_path / "hub", *listed))
    assert own.fingerprint == hub.fingerprint == lines.fingerprint


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answers": [{"text": "Zoë 🙂", "start": 1}]}, "the answer 'Zoë 🙂' is not in its context at 1"),
        ({"answers": [{"text": "Zoë", "start": -4}]}, "the answer 'Zoë' is not in its context at -4"),
        ({"answers": [{"text": "", "start": 0}]}, "the answer '' is not in its context at 0"),
        ({"answers": []}, "has no answer"),
        ({"answers": [{"text": "Zoë"}]}, "expected answers with 'text' and 'start'"),
        ({"context": " "}, "has no text in 'context'"),
        ({"question": None}, "has no text in 'question'"),
    ],
)
def test_a_bad_row_is_refused_by_file_and_id_or_counted(tmp_path, change, reason):
    path = written(tmp_path, GOOD, {**LATER, **change})
    with pytest.raises(InputError) as refused:
        source(path=path)
    message = str(refused.value)
    assert "1 of 2 rows" in message and "train.jsonl:2 (id 'q2')" in message and reason in message
    assert "data.bad_rows=1" in message and "\n" not in message
    data = source(path=path, bad_rows=1)
    assert len(data.splits["train"]) == 1 and "left out" in data.notes[0]


def test_files_without_questions_and_of_another_kind(tmp_path):
    with pytest.raises(InputError, match="expected questions in .*train.jsonl', found none"):
        source(path=written(tmp_path))
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.json").write_text('{"data": [{"title": "t"}]}')
    with pytest.raises(InputError, match="expected SQuAD's data, paragraphs and qas .* found KeyError: 'paragraphs'"):
        source(path=str(tmp_path))

"""A labelled file scored: metrics by hand from the answers, labels by name or number, the seal."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxfer
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.exports import scoring
from jaxfer.exports.predict import Model, load_model
from jaxfer.models.port import Passed
from jaxfer.network import Network
from tests.experiments import PHRASES
from tests.pretrained.checkpoints import RESNET, checkpoint, text_config

TABLE = Path(PHRASES, "train.tsv")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A BERT whose classes are bad, good and plain, as the phrases' are."""
    folder = tmp_path_factory.mktemp("texts") / "source"
    text_config(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """(a ResNet of cat, dog and cow, a folder of six pictures)."""
    folder = tmp_path_factory.mktemp("pictures")
    checkpoint(folder / "source", "resnet", RESNET, labels=("cat", "dog", "cow"))
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (16, 12, 3), np.uint8)).save(folder / f"{i}.png")
    return folder / "source", folder


def assert_by_hand(scored):
    """Accuracy and cross-entropy from the answers themselves."""
    answers = [answer for answer in scored.predictions if answer.error is None]
    hits = [answer.labels == (answer.expected,) for answer in answers]
    losses = [-math.log(answer.probabilities[answer.expected]) for answer in answers]
    assert scored.metrics["accuracy"] == pytest.approx(sum(hits) / len(hits))
    assert scored.metrics["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.system
def test_texts_are_scored_as_eval_scores_them(texts):
    scored = jaxfer.score(texts, TABLE)
    rows = [line.split("\t") for line in TABLE.read_text().splitlines()[1:]]
    assert [(answer.input, answer.expected) for answer in scored.predictions] == [tuple(row) for row in rows]
    assert_by_hand(scored)
    data = {"data.source": "table", "data.path": PHRASES}
    assert scored.metrics == pytest.approx(jaxfer.evaluate(texts, split="train", overrides=data), rel=1e-5)


def test_pairs(texts, tmp_path):
    (tmp_path / "pairs.tsv").write_text("first\tsecond\tlabel\ngood film\tbad\tgood\na\tvery bad film\tplain\n")
    columns = {"data.text": "first", "data.text_pair": "second"}
    scored = jaxfer.score(texts, tmp_path / "pairs.tsv", overrides=columns)
    expected = jaxfer.predict(texts, [("good film", "bad"), ("a", "very bad film")], text=True)
    assert [dataclasses.replace(answer, expected=None) for answer in scored.predictions] == expected
    assert_by_hand(scored)


def test_pictures_beside_their_table(pictures, capsys):
    source, folder = pictures
    table = folder / "labels.csv"
    table.write_text("picture,label\n0.png,cow\n1.png,cat\n2.png,cow\nnone.png,dog\n")
    scored = jaxfer.score(source, table, overrides={"data.text": "picture"})
    assert [answer.expected for answer in scored.predictions] == ["cow", "cat", "cow", "dog"]
    assert "No such file" in scored.predictions[3].error
    assert scored.notes == ("1 of 4 rows have no answer and are not scored",)
    assert_by_hand(scored)
    argv = ["predict", str(source), "--labelled", str(table), "--config.data.text=picture"]
    assert main(argv) == 2
    said = capsys.readouterr()
    *rows, last = said.out.splitlines()
    assert [row.split()[0] for row in rows] == ["0.png", "1.png", "2.png"] and rows[1].endswith("  expected cat")
    assert last.startswith(f"accuracy {scored.metrics['accuracy']:.4f}  loss {scored.metrics['loss']:.4f}")
    assert "note: 1 of 4 rows" in said.err and said.err.count("error: ") == 1
    assert main([*argv, "--json"]) == 2
    *lines, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert [line["expected"] for line in lines] == ["cow", "cat", "cow", "dog"] and "none.png" in lines[3]["error"]
    assert last["metrics"] == pytest.approx(scored.metrics)


def test_groups_of_a_labelled_file(pictures):
    """The group whose only picture is unreadable counts for nothing."""
    source, folder = pictures
    table = folder / "places.csv"
    table.write_text("file,label,place\n0.png,cow,sea\n1.png,cat,sea\n2.png,cow,land\nnone.png,dog,air\n")
    scored = jaxfer.score(source, table, overrides={"data.group": ("place",)})
    first, second, third = (answer.labels == (answer.expected,) for answer in scored.predictions[:3])
    assert scored.metrics["worst_group_accuracy"] == min((first + second) / 2, float(third))


def test_labels_by_number(pictures):
    source, folder = pictures
    (folder / "names.csv").write_text("file,label\n0.png,cow\n1.png,cat\n")
    (folder / "numbers.csv").write_text("file,label\n0.png,2\n1.png,0\n")
    named, numbered = (jaxfer.score(source, folder / f"{name}.csv") for name in ("names", "numbers"))
    assert (numbered.metrics, numbered.predictions) == (named.metrics, named.predictions)
    assert numbered.notes == ("the file's labels are read as class numbers: 0=cat, 2=cow",)
    (folder / "other.csv").write_text("file,label\n0.png,caw\n")
    with pytest.raises(InputError, match="other.csv: the model has no class 'caw'; nearest: 'cow', 'cat'; correct it"):
        jaxfer.score(source, folder / "other.csv")


def test_sets_and_values(pictures, monkeypatch):
    """By hand: logits (0, log 3) are the sigmoids 1/2 and 3/4; of a regression of 2.5 the errors are 0.5 and 1.5."""
    source, folder = pictures

    class Constant:
        encoding = load_model(source).port.encoding
        encodings = (encoding,)

        def forward(self, params, state, batch, taps):
            return Passed(params + 0 * batch["image"][:, 0, 0, :1], state, {})

    def scored(logits, labels, task, rows):
        network = Network(port=Constant(), params=np.float32(logits), model_state={})
        model = Model(network=network, labels=labels, task=task)
        monkeypatch.setattr(scoring, "load_model", lambda _: model)
        (folder / "rows.csv").write_text(f"file,label\n{rows}")
        return jaxfer.score(source, folder / "rows.csv")

    sets = scored([-1e-6, np.log(3)], ("a", "b"), "multilabel", "0.png,a;b\n1.png,b\n2.png,\n")
    assert [answer.expected for answer in sets.predictions] == ["a;b", "b", ""]
    assert [answer.labels for answer in sets.predictions] == [("b",)] * 3
    a, b, no_b = math.log(2), -math.log(3 / 4), -math.log(1 / 4)
    assert sets.metrics["loss"] == pytest.approx(((a + b) / 2 + (a + b) / 2 + (a + no_b) / 2) / 3, rel=1e-5)
    assert sets.metrics["label_accuracy"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    values = scored([2.5], ("LABEL_0",), "regression", "0.png,3\n1.png,1\n")
    assert values.metrics["mse"] == pytest.approx((0.5**2 + 1.5**2) / 2) and values.metrics["mae"] == pytest.approx(1)
    assert [(answer.value, answer.expected) for answer in values.predictions] == [(2.5, "3"), (2.5, "1")]


def test_a_model_without_numbers_has_no_metrics(pictures, monkeypatch):
    source, folder = pictures
    model = load_model(source)
    head = {**model.params["head"], "out": {name: leaf * np.nan for name, leaf in model.params["head"]["out"].items()}}
    broken = dataclasses.replace(
        model, network=dataclasses.replace(model.network, params={**model.params, "head": head})
    )
    monkeypatch.setattr(scoring, "load_model", lambda _: broken)
    (folder / "nan.csv").write_text("file,label\n0.png,cow\n1.png,cat\n")
    scored = jaxfer.score(source, folder / "nan.csv")
    assert scored.metrics == {} and all("expected finite outputs" in answer.error for answer in scored.predictions)


def test_what_is_sealed_is_not_scored(pictures, tmp_path):
    source, folder = pictures
    run = tmp_path / "comparison" / "cells" / "key"
    run.mkdir(parents=True)
    (tmp_path / "comparison" / "protocol.json").write_text("{}")
    (run / "config.json").write_text(json.dumps({"stages": []}))
    with pytest.raises(InputError, match="--labelled: .*labels.csv may hold the test split; .* is sealed until"):
        jaxfer.score(run, folder / "labels.csv")


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("nothing.csv", {}, "--labelled: expected a .csv, .tsv or .jsonl file, found no file at"),
        (".", {}, "found no file at"),
        ("0.png", {}, "expected a .csv, .*0.png"),
        ("names.csv", {"data.target": "value"}, "config.data.target: not an option of a labelled file"),
        ("names.csv", {"lr": 1}, "config.lr: not an option of a labelled file"),
        ("names.csv", {"data.label": "lable"}, "data.label='lable' is not a column of"),
    ],
)
def test_what_is_refused(file, options, message, pictures):
    source, folder = pictures
    (folder / "names.csv").write_text("file,label\n0.png,cow\n1.png,cat\n")
    with pytest.raises(InputError, match=message):
        jaxfer.score(source, folder / file, overrides=options)


@pytest.mark.parametrize("words", [["a.csv", "b.csv"], ["a.csv", "--text"]])
def test_one_table_and_no_texts(words, pictures, capsys):
    assert main(["predict", str(pictures[0]), "--labelled", *words]) == 2
    assert "--labelled: expected one table and no --text" in capsys.readouterr().err

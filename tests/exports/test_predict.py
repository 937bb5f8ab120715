"""Answers for files and texts: the same from a run and from its export, by hand where it counts."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import jaxfer
import jaxfer.config
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.exports.predict import Model, load_model
from jaxfer.runs.finished import open_run
from tests.experiments import PHRASES
from tests.pretrained.checkpoints import text_config


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A small network that has learnt the digits 0 to 2, and three of them as PNGs."""
    folder = tmp_path_factory.mktemp("digits")
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1,), width=8, image=(32, 32, 1))
    config.data = dict(source="digits", classes=("0", "1", "2"), val_per_class=20)
    config.update(batch_size=32, steps=80, lr=1e-2, eval_every=0, save_every=0)
    jaxfer.run(config, folder / "run", quiet=True)
    data, files = load_digits(), []
    for label in (2, 0, 1):
        row = np.flatnonzero(data.target == label)[0]
        files.append(str(folder / f"{label}.png"))
        Image.fromarray(np.rint(data.images[row] * 255 / 16).astype(np.uint8)).save(files[-1])
    return folder / "run", jaxfer.export(folder / "run"), files


def test_a_run_and_its_export_know_their_digits(digits):
    run, export, files = digits
    ours, theirs = jaxfer.predict(run, files), jaxfer.predict(export, files)
    assert [answer.labels for answer in ours] == [("2",), ("0",), ("1",)] and ours == theirs
    for answer in ours:
        chances = list(answer.probabilities.values())
        assert sum(chances) == pytest.approx(1) and chances == sorted(chances, reverse=True)


def test_probabilities_are_the_softmax_of_the_logits(digits):
    run, _, files = digits
    finished, port = open_run(run), load_model(run).port
    pixels = np.asarray(Image.open(files[0]).resize((32, 32), Image.Resampling.BILINEAR), np.float32) / 255
    logits, _ = port.apply(*finished.stage.leave(finished.state), {"image": (pixels[None, ..., None] - 0.5) / 0.5})
    expected = jax.nn.softmax(logits[0])
    found = jaxfer.predict(run, files[:1])[0].probabilities
    np.testing.assert_allclose([found[name] for name in "012"], expected, atol=1e-6)


def test_the_order_and_number_of_files_change_nothing(digits):
    run, _, files = digits
    model = load_model(run)
    alone = [jaxfer.predict(model, [file])[0] for file in files]
    together = jaxfer.predict(model, files * 3, batch_size=4)
    for i, answer in enumerate(together):
        assert (answer.input, answer.labels) == (alone[i % 3].input, alone[i % 3].labels)
        assert answer.probabilities == pytest.approx(alone[i % 3].probabilities, abs=1e-6)


def test_the_command_prints_a_table_and_names_what_it_cannot_read(digits, capsys, tmp_path):
    run, export, files = digits
    torn = tmp_path / "torn.png"
    torn.write_bytes(b"not an image")
    assert main(["predict", str(run), files[0], str(torn), files[1]]) == 2
    said = capsys.readouterr()
    rows = [line.split() for line in said.out.splitlines()]
    assert [(name, label) for name, label, _ in rows] == [(files[0], "2"), (files[1], "0")]
    assert len(said.err.splitlines()) == 1 and f"found '{torn}'" in said.err
    assert main(["predict", str(export), files[0], str(torn), "--json"]) == 2
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["labels"] == ["2"] and set(first["probabilities"]) == {"0", "1", "2"}
    assert second["input"] == str(torn) and "readable image" in second["error"]


@pytest.mark.parametrize("pool", ["pooler", "mean"])
def test_texts_from_the_command_line_and_from_files(pool, tmp_path):
    jaxfer.run(text_config(tmp_path / "source", pool), tmp_path / "run", quiet=True)
    phrases = [line.split("\t")[0] for line in Path(PHRASES, "train.tsv").read_text().splitlines()[1:5]]
    file = tmp_path / "phrases.txt"
    file.write_text("\n".join(phrases) + "\n\n")
    given = jaxfer.predict(tmp_path / "run", phrases, text=True)
    read = jaxfer.predict(tmp_path / "run", [str(file), str(tmp_path / "nothing.txt")])
    assert [answer.input for answer in given] == phrases and given == read[:-1]
    assert "No such file" in read[-1].error
    with pytest.raises(InputError, match="in every line two parted by a tab"):
        jaxfer.predict(tmp_path / "run", ["a", "a\tb"], text=True)


def test_values_and_sets(digits):
    """By hand: logits (0, log 3) are sigmoids (1/2, 3/4); a regression answers with its output."""
    run, _, files = digits

    class Constant:
        inputs, preprocessing = ("image",), load_model(run).port.preprocessing

        def apply(self, params, state, batch):
            return jax.numpy.zeros((len(batch["image"]), 1)) + params, state

    def answer(logits, labels, task):
        model = Model(port=Constant(), params=np.float32(logits), model_state={}, labels=labels, task=task)
        return jaxfer.predict(model, files[:1])[0]

    found = answer([-1e-3, np.log(3)], ("a", "b"), "multilabel")
    assert found.labels == ("b",) and found.probabilities == pytest.approx({"b": 0.75, "a": 0.49975})
    assert answer([2.5], ("LABEL_0",), "regression").value == 2.5
    for logits in ([np.nan, 0], [np.inf, 0], [-np.inf, 0]):
        for task in ("classification", "multilabel", "regression"):
            found = answer(logits, ("a", "b"), task)
            assert f"expected finite outputs for {files[0]!r}, found {logits[0]:g}, 0; check" in found.error
            assert (found.labels, found.probabilities, found.value) == ((), {}, None)


def test_what_can_not_answer(digits, tmp_path):
    run, _, files = digits
    with pytest.raises(InputError, match="--text: the model reads images"):
        jaxfer.predict(run, ["a"], text=True)
    with pytest.raises(InputError, match="no such folder or file"):
        jaxfer.predict(str(tmp_path / "nowhere"), files)
    assert main(["predict", str(run), files[0], "--config.data.path=x"]) == 2

"""Carrying a run out: bitwise, as others name things, whole or not at all; and back in."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from etils import epath
from PIL import Image

import jaxfer
from jaxfer.config.experiment import Choice
from jaxfer.errors import InputError
from jaxfer.exports import hf as exporting
from jaxfer.exports.predict import load_model
from jaxfer.runs.finished import open_run
from jaxfer.training import lineage
from jaxfer.training.preflight import preflight
from tests.experiments import TOKENIZER, tiny_config
from tests.pretrained.checkpoints import (
    CIFAR,
    CLASSES,
    RESNET,
    assert_same,
    back,
    checkpoint,
    config_of,
    text_config,
    weights,
)


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A probe of a ResNet whose classes are others, and whose images are cut out of larger ones."""
    folder = tmp_path_factory.mktemp("probed")
    cut = dict(RESNET, resize=(20,), interpolation="lanczos")
    checkpoint(folder / "source", "resnet", cut, labels=("cat", "dog", "cow"))
    jaxfer.run(config_of(folder / "source", method="probe"), folder / "run", quiet=True)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A run of a text model, its head trained for a step, and its export."""
    folder = tmp_path_factory.mktemp("texts")
    jaxfer.run(text_config(folder / "source", "pooler"), folder / "run", quiet=True)
    return folder / "run", jaxfer.export(folder / "run")


def test_what_training_left_alone_is_bitwise_the_sources(probed):
    out = jaxfer.export(probed / "run")
    theirs, ours = weights(probed / "source"), weights(out)
    assert out == probed / "run" / "export-hf" and ours.keys() == theirs.keys()
    changed = {key for key in theirs if not np.array_equal(theirs[key], ours[key])}
    assert changed == {"classifier.1.weight", "classifier.1.bias"}


def test_the_files_say_what_the_model_is(probed):
    out = jaxfer.export(probed / "run")
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {str(i): name for i, name in enumerate(CLASSES)}
    assert (config["model_type"], config["problem_type"]) == ("resnet", "single_label_classification")
    processor = json.loads((out / "preprocessor_config.json").read_text())
    assert processor["size"] == {"shortest_edge": 20} and processor["crop_size"] == {"height": 16, "width": 12}
    assert processor["resample"] == 1 and processor["image_mean"] == [0.5, 0.25, 0.125]  # Pillow's LANCZOS
    card, result = (out / "README.md").read_text(), json.loads((probed / "run" / "result.json").read_text())
    assert f"| val | accuracy | {result['metrics']['val']['accuracy']:.4f} |" in card
    for said in (result["lineage"]["source_sha256"][:16], result["lineage"]["data_sha256"][:16], "jaxfer export"):
        assert said in card


def test_an_export_starts_a_run_with_the_same_parameters(probed):
    finished = open_run(probed / "run")
    params, state = finished.stage.leave(finished.state)
    start = back(jaxfer.export(probed / "run"), (16, 12, 3))
    assert_same(start.params, params)
    assert_same(start.model_state, state)
    assert not any(entry["what"] in ("re-initialised", "missing") for entry in start.ledger.values())


def test_an_export_prepares_and_answers_as_the_run_does(probed, tmp_path):
    folder = probed
    out, port = jaxfer.export(folder / "run"), open_run(folder / "run").stage.spec.port
    assert port.encoding.resize == (20,) and load_model(out).port.encoding == port.encoding
    source, ours = (json.loads((at / "preprocessor_config.json").read_text()) for at in (folder / "source", out))
    assert ours == source
    files, rng = [], np.random.default_rng(0)
    for height, width in ((9, 31), (40, 18)):  # one is enlarged, one reduced
        files.append(str(tmp_path / f"{height}.png"))
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(files[-1])
    answers = jaxfer.predict(folder / "run", files)
    assert answers == jaxfer.predict(out, files) and answers[0].probabilities != answers[1].probabilities


def test_the_layout_that_transformers_lacks(tmp_path):
    checkpoint(tmp_path / "source", "resnet", CIFAR, layout="torchvision")
    config = config_of(tmp_path / "source", (8, 8, 3), method="probe")
    jaxfer.run(config, tmp_path / "run", quiet=True)
    with pytest.raises(InputError, match="transformers has no ResNet with stem='cifar'.*'torchvision'"):
        jaxfer.export(tmp_path / "run")
    assert not (tmp_path / "run" / "export-hf").exists()
    out = jaxfer.export(tmp_path / "run", format="torchvision", out=tmp_path / "out")
    finished = open_run(tmp_path / "run")
    assert_same(back(out, (8, 8, 3)).params, finished.stage.leave(finished.state)[0])
    with pytest.raises(InputError, match="--format=torchvison: .*nearest: 'torchvision'"):
        jaxfer.export(tmp_path / "run", format="torchvison")


def test_only_lora_makes_an_adapter(probed):
    with pytest.raises(InputError, match="needs a run of lora, dora, .*; this one ends with 'probe'; use --format=hf"):
        jaxfer.export(probed / "run", format="peft")


def test_only_an_export_is_replaced_and_only_by_a_whole_one(probed, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    assert jaxfer.export(probed / "run", out=out) == out  # an empty folder
    (out / "extra").write_text("of the former")
    jaxfer.export(probed / "run", out=out)
    assert not (out / "extra").exists()
    before = weights(out)
    monkeypatch.setattr(exporting.card, "card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        jaxfer.export(probed / "run", out=out)
    assert weights(out).keys() == before.keys() and [entry.name for entry in tmp_path.iterdir()] == ["out"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("the only copy")
    with pytest.raises(InputError, match="other files, not an export"):
        jaxfer.export(probed / "run", out=mine)
    with pytest.raises(InputError, match="found a file"):
        jaxfer.export(probed / "run", out=mine / "thesis.tex")


@pytest.mark.system
def test_a_text_model_takes_its_tokenizer_along(texts):
    run, out = texts
    names = {entry.name for entry in epath.Path(TOKENIZER).iterdir()}
    assert names & {"tokenizer.json", "vocab.txt"}
    for folder in (run / "tokenizer", out):
        assert names <= {entry.name for entry in folder.iterdir()}
        copied = names if folder == run / "tokenizer" else names - {"tokenizer_config.json"}
        assert all((folder / name).read_bytes() == (epath.Path(TOKENIZER) / name).read_bytes() for name in copied)
    before, after = (json.loads((epath.Path(at) / "tokenizer_config.json").read_text()) for at in (TOKENIZER, out))
    assert after == {**before, "model_max_length": 7}  # an export states how long its inputs were
    assert "- **Longest input**: 7 tokens" in (out / "README.md").read_text()
    finished = open_run(run)
    config = tiny_config("bert_pooler", steps=1, init=str(out))
    config.model = dict(name="auto")
    plan = preflight(config)
    options = dict(plan.experiment.model.options)
    assert options["tokenizer"] == str(out) and len(options["tokenizer_sha256"]) == 64
    assert options["max_length"] == 7  # jaxfer.json has it, for config.json has no word for it
    assert_same(lineage.begin(plan, out.parent).params, finished.stage.leave(finished.state)[0])


def test_another_models_tokenizer_is_refused_before_anything_is_written(texts, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(texts[1], out)
    words = (out / "vocab.txt").read_text().splitlines()
    (out / "vocab.txt").write_text("\n".join([*words[:-2], words[-1], words[-2]]) + "\n")
    config = tiny_config("bert_pooler", steps=1, init=str(out))
    config.model = dict(name="auto", tokenizer=TOKENIZER)
    with pytest.raises(InputError, match="tokenizer is .* there, .* here"):
        jaxfer.run(config, tmp_path / "other", quiet=True)
    assert not (tmp_path / "other").exists()


def test_the_same_weights_for_another_task(texts, tmp_path, monkeypatch):
    """`problem_type` decides how an export answers: sigmoids of the logits instead of their softmax."""
    run, out = texts
    finished = open_run(run)
    experiment = dataclasses.replace(finished.experiment, task=Choice(name="multilabel"))
    monkeypatch.setattr(exporting, "open_run", lambda _: dataclasses.replace(finished, experiment=experiment))
    sets = jaxfer.export(run, out=tmp_path / "sets")
    for folder, problem in ((out, "single_label_classification"), (sets, "multi_label_classification")):
        for name in ("config.json", "jaxfer.json"):
            assert json.loads((folder / name).read_text())["problem_type"] == problem
    (one,), (many,) = (jaxfer.predict(folder, ["very film a good."], text=True) for folder in (out, sets))
    chances = np.asarray([many.probabilities[name] for name in finished.classes])
    odds = chances / (1 - chances)  # exp(logit)
    found = [one.probabilities[name] for name in finished.classes]
    np.testing.assert_allclose(found, odds / odds.sum(), rtol=1e-5)
    assert many.labels == tuple(name for name in finished.classes if many.probabilities[name] >= 0.5)


def test_sentence_transformers_has_no_pooler(texts):
    with pytest.raises(InputError, match="pools its tokens .*, this one has pool='pooler'; use --format=hf"):
        jaxfer.export(texts[0], format="sentence-transformers")
    assert not (texts[0] / "export-sentence-transformers").exists()

"""Carrying a run out: bitwise, as others name things, whole or not at all; and back in."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from PIL import Image

import jaxfer
from jaxfer import pretrained
from jaxfer.errors import InputError
from jaxfer.finished import open_run
from jaxfer.prediction import load_model
from jaxfer.preflight import preflight
from jaxfer.pretrained import export as exporting
from jaxfer.rules import flatten
from tests.experiments import TOKENIZER, tiny_config
from tests.pretrained.checkpoints import CIFAR, CLASSES, RESNET, VIT, checkpoint, config_of


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A probe of a ResNet whose classes are others, and whose images are cut out of larger ones."""
    folder = tmp_path_factory.mktemp("probed")
    cut = dict(RESNET, resize=(20,), interpolation="lanczos")
    checkpoint(folder / "source", "resnet", cut, labels=("cat", "dog", "cow"))
    jaxfer.run(config_of(folder / "source", method="probe"), folder / "run", quiet=True)
    return folder


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """LoRA on a ViT, two steps at a rate that moves everything; its images too are cut out."""
    folder = tmp_path_factory.mktemp("adapted")
    cut = dict(VIT, resize=(11, 15), interpolation="hamming")
    checkpoint(folder / "source", "vit", cut, labels=("cat", "dog", "cow"))
    config = config_of(folder / "source", (8, 12, 3), method="lora", options=dict(rank=2, alpha=3.0), lr=0.05, steps=2)
    jaxfer.run(config, folder / "run", quiet=True)
    return folder


def weights(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def back(folder, image):
    """The Start of a run from an export."""
    config = config_of(folder, image)
    return pretrained.start(preflight(config), epath.Path("unused"))


def assert_same(found, expected):
    found, expected = flatten(found), flatten(expected)
    assert found.keys() == expected.keys()
    for path in expected:
        np.testing.assert_array_equal(found[path], expected[path], err_msg=path)


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


@pytest.mark.parametrize("which, image", [("probed", (16, 12, 3)), ("adapted", (8, 12, 3))])
def test_an_export_starts_a_run_with_the_same_parameters(which, image, request):
    folder = request.getfixturevalue(which)
    finished = open_run(folder / "run")
    params, state = finished.stage.leave(finished.state)
    start = back(jaxfer.export(folder / "run"), image)
    assert_same(start.params, params)
    assert_same(start.model_state, state)
    assert not any(entry["what"] in ("re-initialised", "missing") for entry in start.ledger.values())


@pytest.mark.parametrize("which, resize", [("probed", (20,)), ("adapted", (11, 15))])
def test_an_export_prepares_and_answers_as_the_run_does(which, resize, request, tmp_path):
    folder = request.getfixturevalue(which)
    out, port = jaxfer.export(folder / "run"), open_run(folder / "run").stage.spec.port
    assert port.preprocessing.resize == resize and load_model(out).port.preprocessing == port.preprocessing
    source, ours = (json.loads((at / "preprocessor_config.json").read_text()) for at in (folder / "source", out))
    assert ours == source
    files, rng = [], np.random.default_rng(0)
    for height, width in ((9, 31), (40, 18)):  # one is enlarged, one reduced
        files.append(str(tmp_path / f"{height}.png"))
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(files[-1])
    answers = jaxfer.predict(folder / "run", files)
    assert answers == jaxfer.predict(out, files) and answers[0].probabilities != answers[1].probabilities


def test_a_merged_lora_leaves_the_rest_alone(adapted):
    theirs, ours = weights(adapted / "source"), weights(jaxfer.export(adapted / "run"))
    changed = {key for key in theirs if not np.array_equal(theirs[key], ours[key])}
    layers = ("attention.attention.query", "attention.attention.key", "attention.attention.value")
    kernels = (*layers, "attention.output.dense", "intermediate.dense", "output.dense")
    expected = {f"vit.encoder.layer.{i}.{name}.weight" for i in range(2) for name in kernels}
    assert changed == expected | {"classifier.weight", "classifier.bias"}


def test_a_peft_adapter_adds_up_to_the_merged_weights(adapted):
    """W + alpha / r * B A, under the names that transformers 5 has in memory."""
    out = jaxfer.export(adapted / "run", format="peft")
    low, base = safetensors.numpy.load_file(out / "adapter_model.safetensors"), weights(adapted / "source")
    merged = weights(jaxfer.export(adapted / "run"))
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["modules_to_save"]) == (2, 3.0, ["classifier"])
    assert config["base_model_name_or_path"] == str(adapted / "source") and len(config["target_modules"]) == 12
    pairs = {
        "vit.layers.1.attention.k_proj": "vit.encoder.layer.1.attention.attention.key",
        "vit.layers.0.attention.o_proj": "vit.encoder.layer.0.attention.output.dense",
        "vit.layers.1.mlp.fc1": "vit.encoder.layer.1.intermediate.dense",
        "vit.layers.0.mlp.fc2": "vit.encoder.layer.0.output.dense",
    }
    assert set(pairs) <= set(config["target_modules"])
    for ours, theirs in pairs.items():
        a, b = (low[f"base_model.model.{ours}.lora_{name}.weight"] for name in "AB")
        assert a.shape[0] == b.shape[1] == 2
        moved = merged[f"{theirs}.weight"] - base[f"{theirs}.weight"]
        assert np.abs(moved).max() > 1e-3
        np.testing.assert_allclose(1.5 * b @ a, moved, atol=1e-6)
    np.testing.assert_array_equal(low["base_model.model.classifier.weight"], merged["classifier.weight"])


def test_what_peft_cannot_carry(probed, adapted, tmp_path):
    with pytest.raises(InputError, match="is of LoRA runs, this one ends with 'probe'; use --format=hf"):
        jaxfer.export(probed / "run", format="peft")
    config = config_of(f"run:{adapted / 'run'}", (8, 12, 3), method="lora")
    jaxfer.run(config, tmp_path / "second", quiet=True)
    with pytest.raises(InputError, match="needs a checkpoint to adapt, this run began with run:"):
        jaxfer.export(tmp_path / "second", format="peft")
    config = config_of(adapted / "source", (8, 12, 3), lr=0.01, stages=("full", "lora"))
    config.stage.full, config.stage.lora = dict(method="full"), dict(method="lora")
    jaxfer.run(config, tmp_path / "tuned", quiet=True)
    with pytest.raises(InputError, match="leaves of the backbone are not the checkpoint's own"):
        jaxfer.export(tmp_path / "tuned", format="peft")


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


def test_a_model_that_the_format_has_no_word_for(tmp_path):
    """A CIFAR-sized network is not the only thing transformers lacks."""
    jaxfer.run(tiny_config("vit_mean", steps=1), tmp_path / "run", quiet=True)
    with pytest.raises(InputError, match="pool='mean'"):
        jaxfer.export(tmp_path / "run")


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
    with pytest.raises(InputError, match="no export and not empty"):
        jaxfer.export(probed / "run", out=mine)
    with pytest.raises(InputError, match="found a file"):
        jaxfer.export(probed / "run", out=mine / "thesis.tex")


def test_a_text_model_takes_its_tokenizer_along(tmp_path):
    jaxfer.run(tiny_config("bert_pooler", steps=1), tmp_path / "run", quiet=True)
    out = jaxfer.export(tmp_path / "run")
    names = {entry.name for entry in epath.Path(TOKENIZER).iterdir()}
    assert names & {"tokenizer.json", "vocab.txt"}
    for folder in (tmp_path / "run" / "tokenizer", out):
        assert names <= {entry.name for entry in folder.iterdir()}
        assert all((folder / name).read_bytes() == (epath.Path(TOKENIZER) / name).read_bytes() for name in names)
    finished = open_run(tmp_path / "run")
    config = tiny_config("bert_pooler", steps=1, init=str(out))
    config.model = dict(name="auto")
    plan = preflight(config)
    options = dict(plan.experiment.model.options)
    assert options["tokenizer"] == str(out) and len(options["tokenizer_sha256"]) == 64
    assert_same(pretrained.start(plan, tmp_path).params, finished.stage.leave(finished.state)[0])


def test_another_models_tokenizer_is_refused_before_anything_is_written(tmp_path):
    jaxfer.run(tiny_config("bert_pooler", steps=1), tmp_path / "run", quiet=True)
    out = jaxfer.export(tmp_path / "run")
    words = (out / "vocab.txt").read_text().splitlines()
    (out / "vocab.txt").write_text("\n".join([*words[:-2], words[-1], words[-2]]) + "\n")
    config = tiny_config("bert_pooler", steps=1, init=str(out))
    config.model = dict(name="auto", tokenizer=TOKENIZER)
    with pytest.raises(InputError, match="tokenizer is .* there, .* here"):
        jaxfer.run(config, tmp_path / "other", quiet=True)
    assert not (tmp_path / "other").exists()

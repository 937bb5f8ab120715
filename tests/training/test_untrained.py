"""A checkpoint evaluated without training: as its run was, whatever order its classes have; sealed as its run is."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxfer
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.training import untrained
from tests.pretrained.checkpoints import CIFAR, CLASSES, RESNET, checkpoint, config_of, edit

DATA = {"data.source": "synthetic", "data.image": (16, 12, 3), "data.classes_count": 3, "data.examples": 48}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(a run from a checkpoint of its data's classes, its metrics, its export)."""
    folder = tmp_path_factory.mktemp("untrained")
    checkpoint(folder / "source", "resnet", RESNET)
    result = jaxfer.run(config_of(folder / "source", method="full", steps=3, test=True), folder / "run", quiet=True)
    return folder / "run", result["metrics"], jaxfer.export(folder / "run", out=folder / "out")


def reordered(out, folder, names):
    """The same classifier with its outputs in another order, under these names."""
    shutil.copytree(out, folder)
    tensors = load_file(folder / "model.safetensors")
    order = [2, 0, 1]
    for key in ("classifier.1.weight", "classifier.1.bias"):
        tensors[key] = np.ascontiguousarray(tensors[key][order])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    edit(folder / "config.json", id2label={str(i): name for i, name in enumerate(names)})
    return folder


@pytest.mark.system
def test_an_export_scores_what_its_run_scored(exported):
    _, metrics, out = exported
    for split in ("val", "test"):
        assert jaxfer.evaluate(out, split=split, overrides=DATA) == pytest.approx(metrics[split], abs=1e-6)


def test_classes_are_matched_by_name(exported, tmp_path):
    _, metrics, out = exported
    folder = reordered(out, tmp_path / "out", [CLASSES[i] for i in (2, 0, 1)])
    assert jaxfer.evaluate(folder, overrides=DATA) == pytest.approx(metrics["val"], abs=1e-6)
    chosen = {**DATA, "data.classes": CLASSES[::-1]}  # whatever order the data's are put in
    assert jaxfer.evaluate(folder, overrides=chosen) == pytest.approx(metrics["val"], abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        (("b", "a"), ("a", "b"), ("b", "a")),
        (("1", "0"), ("0", "1"), ("1", "0")),
        ((), ("a", "b"), None),
        (("negative", "positive"), ("0", "1"), None),
    ],
)
def test_names_count_where_both_sides_have_them(labels, classes, expected):
    assert untrained.matched(labels, classes, 2, "x") == expected


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (("a", "b"), ("a", "c"), "x: the checkpoint's classes are a, b; this data's are a, c; choose them with"),
        (("a", "b"), ("a",), "this data's are a; choose"),
        (("a", "b"), ("0", "1", "2"), r"has 2 classes .a, b., this data has 3 .0, 1, 2."),
        ((), ("a", "b", "c"), r"has 2 classes .without names., this data has 3 .a, b, c."),
    ],
)
def test_other_classes_are_refused(labels, classes, message):
    with pytest.raises(InputError, match=message):
        untrained.matched(labels, classes, 2, "x")


def test_the_command_says_what_it_assumed(exported, tmp_path, capsys):
    _, metrics, out = exported
    folder = reordered(out, tmp_path / "out", ["LABEL_0", "LABEL_1", "LABEL_2"])
    edit(folder / "config.json", problem_type=None)
    argv = ["eval", str(folder), *(f"--config.{name}={value}" for name, value in DATA.items())]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert "states no task; 3 outputs are read as classification" in " ".join(said.err.split())
    assert "matched by position, since one side has no class names: class_0=0, class_1=1" in " ".join(said.err.split())
    # Its second output has the name of the third class now, and counts for the second.
    assert said.out.startswith("val: accuracy") and f"loss {metrics['val']['loss']:.4f}" not in said.out


def test_bare_weights_with_what_shapes_do_not_tell(tmp_path):
    port, params, state = checkpoint(tmp_path / "source", "resnet", CIFAR, layout="torchvision")
    overrides = {**DATA, "data.image": (8, 8, 3), "model.name": "resnet"}
    weights = tmp_path / "source" / "model.safetensors"
    shutil.move(weights, tmp_path / "weights.safetensors")
    options = {f"model.{name}": value for name, value in CIFAR.items() if name in ("image", "stem", "shortcut")}
    found = untrained.opened(str(tmp_path / "weights.safetensors"), {**overrides, **options}, split="val")
    split = found.data.splits["val"]
    images = np.stack([split.example("image", i) for i in range(len(split))]).astype(np.float32) / 255
    spec = found.stage.spec.port.encoding
    logits, _ = port.apply(params, state, {"image": (images - np.float32(spec.mean)) / np.float32(spec.std)})
    accuracy = float(np.mean(np.argmax(logits, -1) == split.labels))
    metrics = jaxfer.evaluate(tmp_path / "weights.safetensors", overrides={**overrides, **options}, quiet=True)
    assert metrics["accuracy"] == pytest.approx(accuracy)


def test_an_export_of_a_sealed_run_is_sealed(exported, tmp_path):
    run, metrics, out = exported
    comparison = tmp_path / "comparison"
    (comparison / "cells").mkdir(parents=True)
    (comparison / "protocol.json").write_text("{}")
    inside = comparison / "cells" / "key" / "export-hf"
    shutil.copytree(out, inside)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(out, elsewhere)
    edit(elsewhere / "jaxfer.json", run=str(comparison / "cells" / "key"))
    for sealed in (inside, elsewhere):
        with pytest.raises(InputError, match="its test split is sealed until"):
            jaxfer.evaluate(sealed, split="test", overrides=DATA)
        assert jaxfer.evaluate(sealed, overrides=DATA) == pytest.approx(metrics["val"], abs=1e-6)
    (comparison / "selection.json").write_text(json.dumps({"opened": ["key"]}))
    assert jaxfer.evaluate(elsewhere, split="test", overrides=DATA) == pytest.approx(metrics["test"], abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"split": "tst"}, "split 'tst' is not in this data; it has"),
        ({}, {"checkpoint": "best"}, "--checkpoint=best is for runs, .* omit it"),
        ({"lr": 1.0}, {}, r"config.lr: nothing is trained here; a checkpoint takes data.\*, model.\*, task.\*"),
        ({"task.name": "multilabel"}, {}, "states single_label_classification, found 'multilabel'; leave it out"),
        ({"model.width": 8}, {}, "the checkpoint's model is different .width is 4 there, 8 here"),
        ({"data.classes_count": 4}, {}, "classes are class_0, class_1, class_2; this data's are class_0, .* class_3"),
    ],
)
def test_what_is_refused(changes, options, message, exported):
    with pytest.raises(InputError, match=message):
        jaxfer.evaluate(exported[2], overrides={**DATA, **changes}, **options)


def test_a_checkpoint_has_no_data_of_its_own(exported, tmp_path):
    with pytest.raises(InputError, match="expected a folder that `jaxfer run` wrote, or a checkpoint and the data to"):
        jaxfer.evaluate(exported[2])
    checkpoint(tmp_path / "headless", "resnet", RESNET)
    tensors = load_file(tmp_path / "headless" / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if not key.startswith("classifier")}
    save_file(kept, tmp_path / "headless" / "model.safetensors")
    with pytest.raises(InputError, match="has no head, so nothing to predict with"):
        jaxfer.evaluate(tmp_path / "headless", overrides=DATA)

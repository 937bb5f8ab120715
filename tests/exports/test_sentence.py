"""Text models that pool the mean: a folder for sentence-transformers, and back in with its head."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file, save_file

import jaxfer
from jaxfer.errors import InputError
from jaxfer.exports import peft
from jaxfer.pretrained import starting
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.sentence import MODULES
from jaxfer.runs.finished import open_run
from jaxfer.training import lineage
from jaxfer.training.preflight import preflight
from tests.pretrained.checkpoints import assert_same, begin, edit, text_config, weights

LABELS = ("bad", "good", "plain")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(a run, its export, the config of the run)."""
    folder = tmp_path_factory.mktemp("sentence")
    config = text_config(folder / "source", "mean")
    jaxfer.run(config, folder / "run", quiet=True)
    return folder / "run", jaxfer.export(folder / "run", format="sentence-transformers"), config


def test_the_files_are_those_that_it_reads(exported):
    run, out, _ = exported
    modules = json.loads((out / "modules.json").read_text())
    assert [(entry["path"], entry["type"].rpartition(".")[2]) for entry in modules] == [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        ("2_Dense", "Dense"),
    ]
    said = {name: json.loads((out / name / "config.json").read_text()) for name in ("1_Pooling", "2_Dense", ".")}
    assert [name for name, value in said["1_Pooling"].items() if value is True] == ["pooling_mode_mean_tokens"]
    assert said["2_Dense"]["activation_function"] == "torch.nn.modules.linear.Identity"
    assert (said["2_Dense"]["in_features"], said["2_Dense"]["out_features"]) == (12, 3)
    assert said["."]["architectures"] == ["BertModel"] and "id2label" not in said["."]
    assert json.loads((out / "sentence_bert_config.json").read_text())["max_seq_length"] == 7
    marker = json.loads((out / "jaxfer.json").read_text())
    assert (marker["labels"], marker["problem_type"]) == (list(LABELS), "single_label_classification")
    assert "library_name: sentence-transformers" in (out / "README.md").read_text()
    assert (out / "vocab.txt").read_bytes() == (run / "tokenizer" / "vocab.txt").read_bytes()


def test_untouched_weights_are_the_sources_and_the_pooler_that_nobody_reads_is_zero(exported):
    run, out, _ = exported
    theirs, ours, dense = weights(run.parent / "source"), weights(out), load_file(out / "2_Dense" / "model.safetensors")
    poolers = {"pooler.dense.weight", "pooler.dense.bias"}
    assert {f"bert.{key}" for key in ours} | {"classifier.weight", "classifier.bias"} == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[f"bert.{key}"]) for key in ours.keys() - poolers)
    assert not any(ours[key].any() for key in poolers)
    kernel = open_run(run).state.params["head"]["out"]["kernel"]
    np.testing.assert_array_equal(dense["linear.weight"], np.transpose(kernel))


def test_it_starts_a_run_with_the_same_parameters_and_predicts_alike(exported):
    run, out, config = exported
    finished = open_run(run)
    again = config.copy_and_resolve_references()
    again.init, again.differs, again.model = str(out), (), dict(name="auto")
    plan = preflight(again)
    options = dict(plan.experiment.model.options)
    assert (options["pool"], options["max_length"], options["tokenizer"]) == ("mean", 7, str(out))
    start = lineage.begin(plan, epath.Path("unused"))
    assert_same(start.params, finished.stage.leave(finished.state)[0])
    entry = start.ledger["params/head/out/kernel"]
    assert (entry["what"], entry["from"]) == ("transposed", "2_Dense.linear.weight")
    phrases = ["very film a good. was bad films and more than seven", "was bad films"]
    assert jaxfer.predict(out, phrases, text=True) == jaxfer.predict(run, phrases, text=True)


def test_transformers_has_no_class_for_it(exported):
    with pytest.raises(InputError, match="no BERT classifier with pool='mean'; use --format=sentence-transformers"):
        jaxfer.export(exported[0])
    assert not (exported[0] / "export-hf").exists()


def test_nor_for_an_adapter_of_it(exported):
    finished = open_run(exported[0])
    config = dataclasses.replace(finished.stage.config, method="lora")  # as if LoRA had trained it
    finished = dataclasses.replace(finished, stage=dataclasses.replace(finished.stage, config=config))
    with pytest.raises(InputError, match="no BERT classifier with pool='mean'; use --format=sentence-transformers"):
        peft.write(finished, by_family("bert", "hf"), exported[0])
    assert not (exported[0] / "adapter_config.json").exists()


@pytest.mark.system
def test_a_projection_and_a_scaling_come_back(tmp_path):
    """Poolings `cls+max`, a dense layer of 5 with ReLU, length 1, head: written, listed in order, read as it was."""
    config = text_config(tmp_path / "source", "cls+max", head="reset")
    with config.unlocked():
        config.model.update(projection=5, projection_activation="relu", projection_bias=False, normalize=True)
    jaxfer.run(config, tmp_path / "run", quiet=True)
    out = jaxfer.export(tmp_path / "run", format="sentence-transformers", out=tmp_path / "out")
    modules = [(entry["path"], entry["type"].rpartition(".")[2]) for entry in json.loads((out / MODULES).read_text())]
    assert modules == [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        ("2_Projection", "Dense"),
        ("2_Normalize", "Normalize"),
        ("2_Dense", "Dense"),
    ]
    layer = json.loads((out / "2_Projection" / "config.json").read_text())
    activation = "torch.nn.modules.activation.ReLU"
    assert layer == {"in_features": 24, "out_features": 5, "bias": False, "activation_function": activation}
    again = config.copy_and_resolve_references()
    again.init, again.head, again.differs, again.model = str(out), "auto", (), dict(name="auto")
    start = begin(again)
    finished = open_run(tmp_path / "run")
    assert_same(start.params, finished.stage.leave(finished.state)[0])
    assert start.ledger["params/head/dense/kernel"]["from"] == "2_Projection.linear.weight"
    phrases = ["very film a good. was", "bad films"]
    assert jaxfer.predict(out, phrases, text=True) == jaxfer.predict(tmp_path / "run", phrases, text=True)
    with pytest.raises(InputError, match="no BERT classifier with pool='cls.max', projection=5, normalize=True; use"):
        jaxfer.export(tmp_path / "run")
    tensors = load_file(out / "2_Projection" / "model.safetensors")
    before = starting.source_sha256(str(out), tmp_path)
    save_file({"linear.weight": tensors["linear.weight"] + 1}, out / "2_Projection" / "model.safetensors")
    assert starting.source_sha256(str(out), tmp_path) != before


def test_another_head_is_another_source(exported, tmp_path):
    out = jaxfer.export(exported[0], format="sentence-transformers", out=tmp_path / "out")
    before = starting.source_sha256(str(out), tmp_path)
    dense = out / "2_Dense" / "model.safetensors"
    dense.write_bytes(dense.read_bytes()[:-1] + b"\x01")
    assert starting.source_sha256(str(out), tmp_path) != before
    edit(out / "jaxfer.json", labels=["bad", "good"])
    with pytest.raises(InputError, match="expected 3 labels, one per output, found 2"):
        jaxfer.predict(out, ["a film"], text=True)

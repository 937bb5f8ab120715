"""LoRA runs carried out as `peft` adapters, and back in."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image
from safetensors.numpy import load_file, save_file

import jaxfer
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.exports import as_lora, peft
from jaxfer.exports.predict import load_model
from jaxfer.pretrained import foreign
from jaxfer.rules import flatten, unflatten
from jaxfer.runs.finished import open_run
from jaxfer.stored import Stored
from tests.models.tiny import batch
from tests.pretrained.checkpoints import CLASSES, VIT, assert_same, back, checkpoint, config_of, weights

pytestmark = pytest.mark.system

IMAGE = (8, 12, 3)
# The runs announce another mean than their checkpoint's. One program serves them all.
LORA = dict(method="lora", options=dict(rank=2, alpha=3.0), lr=0.05, steps=2)
LORA |= dict(model=dict(mean=(0.25,)), differs=("mean",))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """LoRA on a ViT, two steps at a rate that moves everything; its images are cut out of larger ones."""
    folder = tmp_path_factory.mktemp("adapted")
    cut = dict(VIT, resize=(11, 15), interpolation="hamming")
    checkpoint(folder / "source", "vit", cut, labels=("cat", "dog", "cow"))
    jaxfer.run(config_of(folder / "source", IMAGE, **LORA), folder / "run", quiet=True)
    return folder


def test_a_merged_lora_starts_a_run_with_the_same_parameters(adapted):
    finished = open_run(adapted / "run")
    params, state = finished.stage.leave(finished.state)
    out = jaxfer.export(adapted / "run")
    assert finished.stage.spec.port.encoding.resize == (11, 15)
    assert load_model(out).port.encoding == finished.stage.spec.port.encoding
    start = back(out, IMAGE)
    assert_same(start.params, params)
    assert_same(start.model_state, state)
    assert not any(entry["what"] in ("re-initialised", "missing") for entry in start.ledger.values())


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
    low, base = load_file(out / "adapter_model.safetensors"), weights(adapted / "source")
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


def test_an_adapter_starts_a_run_that_answers_as_the_one_that_wrote_it(adapted, capsys):
    out, run = jaxfer.export(adapted / "run", format="peft"), load_model(adapted / "run")
    start = back(out, IMAGE)
    x = batch(run.port, examples=4)
    apply = jax.jit(lambda params: run.port.apply(params, {}, x)[0])
    found, expected = apply(start.params), apply(run.params)
    assert np.abs(np.asarray(expected)).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert_same(start.params["head"], run.params["head"])
    merged = {leaf: entry for leaf, entry in start.ledger.items() if entry["what"] == "merged"}
    assert len(merged) == 12 and all(leaf.startswith("params/block_") for leaf in merged)
    assert merged["params/block_1/attn/key/kernel"] == {
        "what": "merged",
        "from": "vit.encoder.layer.1.attention.attention.key.weight",
        "shape": [12, 3, 4],
        "adapter": "vit.layers.1.attention.k_proj",
    }
    head = start.ledger["params/head/out/kernel"]
    assert (head["what"], head["from"]) == ("transposed", "base_model.model.classifier.weight")
    assert start.table().splitlines()[0].endswith("12 merged") and start.table().startswith(f"{out}: ")
    assert start.lineage["source"]["adapter_base"]["init"] == str(adapted / "source")


def test_an_adapter_beside_its_base_shares_the_backbone_of_the_run(adapted):
    out = jaxfer.export(adapted / "run", format="peft")
    held = jaxfer.adapters({"run": adapted / "run", "file": out})
    x = batch(held.switch("run").port, examples=4)

    def outputs(model):
        return np.asarray(model.network(x).outputs)

    expected = outputs(held.switch("run"))
    np.testing.assert_allclose(outputs(held.switch("file")), expected, rtol=0, atol=1e-5)
    plain = outputs(held.weighted({"run": 1, "file": -1}))  # the base with the run's head
    bare = unflatten({**held.backbone, **held.each["run"].head})
    np.testing.assert_allclose(plain, held.switch("run").port.apply(bare, {}, x)[0], rtol=0, atol=1e-5)
    twice = outputs(held.stacked(["run", "file"]))
    np.testing.assert_allclose(outputs(held.weighted({"file": 2})), twice, rtol=0, atol=1e-5)
    assert np.abs(plain - expected).max() > 1e-3 and np.abs(twice - expected).max() > 1e-3
    with pytest.raises(InputError, match="expected a run or a peft adapter, found a whole model"):
        jaxfer.adapters({"run": adapted / "run", "whole": adapted / "source"})


def test_an_adapter_predicts(adapted, tmp_path, capsys):
    out, files = jaxfer.export(adapted / "run", format="peft"), []
    spec = load_model(out).port.encoding  # with the run's mean: without it the weights would be another model's
    assert spec.mean == (0.25,) and spec == load_model(adapted / "run").port.encoding
    for seed in range(3):
        files.append(str(tmp_path / f"{seed}.png"))
        pixels = np.random.default_rng(seed).integers(0, 256, IMAGE).astype(np.uint8)
        Image.fromarray(pixels).save(files[-1])
    expected = jaxfer.predict(adapted / "run", files)
    for answer, wanted in zip(jaxfer.predict(out, files), expected, strict=True):
        assert answer.labels == wanted.labels and set(answer.probabilities) == set(CLASSES)
        assert answer.probabilities == pytest.approx(wanted.probabilities, abs=1e-5)
    assert main(["predict", str(out), files[0]]) == 0
    assert capsys.readouterr().out.split()[:2] == [files[0], expected[0].labels[0]]
    data = {"data.source": "synthetic", "data.image": IMAGE, "data.classes_count": 3, "data.examples": 48}
    assert jaxfer.evaluate(out, overrides=data) == pytest.approx(jaxfer.evaluate(adapted / "run"), abs=1e-5)


def test_what_peft_cannot_carry(adapted, tmp_path):
    jaxfer.run(config_of(f"run:{adapted / 'run'}", IMAGE, **LORA), tmp_path / "second", quiet=True)
    with pytest.raises(InputError, match="needs a checkpoint to adapt, this run started from run:"):
        jaxfer.export(tmp_path / "second", format="peft")
    out = jaxfer.export(adapted / "run", format="peft")
    jaxfer.run(config_of(out, IMAGE, **LORA), tmp_path / "third", quiet=True)
    with pytest.raises(InputError, match="is an adapter itself, and peft does not stack them; use --format=hf"):
        jaxfer.export(tmp_path / "third", format="peft")
    jaxfer.run(config_of(adapted / "source", IMAGE, adds=("ema",), **LORA), tmp_path / "averaged", quiet=True)
    with pytest.raises(InputError, match=r"this run is of averages \(ema\); use --format=hf"):
        jaxfer.export(tmp_path / "averaged", format="peft")
    config = config_of(adapted / "source", IMAGE, stages=("first", "then"), **LORA)
    jaxfer.run(config, tmp_path / "tuned", quiet=True)  # what the first stage learnt is merged into the backbone
    with pytest.raises(InputError, match="leaves of the backbone differ from the checkpoint"):
        jaxfer.export(tmp_path / "tuned", format="peft")


def test_a_base_on_the_hub_goes_by_name_and_commit(tmp_path, monkeypatch):
    """As the Hub's own cache has it, without a network: a tag that names a commit."""
    commit, cache = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--tests--vit-of-adapters"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (cache / "snapshots").mkdir(parents=True)
    _, params, _ = checkpoint(cache / "snapshots" / commit, "vit", VIT)
    (cache / "refs").mkdir()
    (cache / "refs" / "v1").write_text(commit)
    config = config_of("tests/vit-of-adapters@v1", IMAGE, **LORA)
    result = jaxfer.run(config, tmp_path / "run", quiet=True)
    assert result["lineage"]["source"]["commit"] == commit
    out = jaxfer.export(tmp_path / "run", format="peft")
    written = json.loads((out / "adapter_config.json").read_text())
    assert (written["base_model_name_or_path"], written["revision"]) == ("tests/vit-of-adapters", commit)
    card = (out / "README.md").read_text()
    assert "base_model: tests/vit-of-adapters\n" in card and f"'tests/vit-of-adapters', revision='{commit}'" in card
    start = back(out, IMAGE)
    assert_same(start.params["stem"], params["stem"])
    assert start.lineage["source"]["adapter_base"]["commit"] == commit
    config.init = "tests/vit-of-adapters@v2"
    with pytest.raises(InputError, match="tests/vit-of-adapters: .* can't be reached at revision 'v2'"):
        jaxfer.run(config, tmp_path / "other", quiet=True)


def test_a_rank_stabilised_scale_is_written_and_read(adapted, tmp_path):
    fields = {**LORA, "options": dict(rank=4, alpha=3.0, scaling="rank_stabilised")}
    jaxfer.run(config_of(adapted / "source", IMAGE, **fields), tmp_path / "run", quiet=True)
    out = jaxfer.export(tmp_path / "run", format="peft")
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (4, 3.0, True)
    theirs, wanted = back(out, IMAGE).params, flatten(load_model(tmp_path / "run").params)
    for path, leaf in flatten(theirs).items():
        np.testing.assert_allclose(leaf, wanted[path], rtol=0, atol=1e-6)


def test_a_start_that_changes_the_frozen_kernels_is_no_adapter_of_the_checkpoint(adapted, tmp_path):
    fields = {**LORA, "options": dict(rank=2, start="olora")}
    jaxfer.run(config_of(adapted / "source", IMAGE, **fields), tmp_path / "run", quiet=True)
    with pytest.raises(InputError, match="--format=peft: start='olora' changed the frozen kernels"):
        jaxfer.export(tmp_path / "run", format="peft")


def test_what_any_method_did_is_a_lora_of_twice_its_rank_at_most(adapted, tmp_path, capsys):
    fields = {**LORA, "options": dict(rank=2, start="olora")}
    jaxfer.run(config_of(adapted / "source", IMAGE, **fields), tmp_path / "run", quiet=True)
    assert main(["export", str(tmp_path / "run"), "--format=peft", "--as=lora", "--rank=4"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 14 and said[0].endswith("vit.layers.0.attention.k_proj")
    assert said[12].startswith("relative error of rank 4: at most ") and said[12].endswith("over 12 layers")
    out = tmp_path / "run" / "export-peft"
    errors = json.loads((out / "jaxfer.json").read_text())["as_lora"]["error"]
    assert len(errors) == 12 and max(errors.values()) < 1e-5  # of changes that are rounded to float32
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 4)
    theirs, wanted = back(out, IMAGE).params, flatten(load_model(tmp_path / "run").params)
    for path, leaf in flatten(theirs).items():
        np.testing.assert_allclose(leaf, wanted[path], rtol=0, atol=1e-6)


def test_what_is_no_lora(adapted, tmp_path, capsys):
    fields = dict(LORA, method="bitfit", options={})
    jaxfer.run(config_of(adapted / "source", IMAGE, **fields), tmp_path / "run", quiet=True)
    with pytest.raises(
        InputError, match=r"leaves of the backbone differ from the checkpoint \(params/block_0/.*bias\)"
    ):
        jaxfer.export(tmp_path / "run", format="peft", as_lora=2)
    with pytest.raises(InputError, match="--as=lora needs --format=peft and a rank of 1 or more, found hf and 2"):
        jaxfer.export(tmp_path / "run", as_lora=2)
    assert main(["export", str(tmp_path / "run"), "--format=peft", "--as=lora"]) == 2
    assert "--as=lora and --rank=R go together" in capsys.readouterr().err


def test_trained_norms_are_written_whole_and_read(adapted, tmp_path):
    fields = dict(LORA, method="norm_tuning", options={})
    jaxfer.run(config_of(adapted / "source", IMAGE, **fields), tmp_path / "run", quiet=True)
    out = jaxfer.export(tmp_path / "run", format="peft")
    config = json.loads((out / "adapter_config.json").read_text())
    norms = [f"vit.layers.{i}.layernorm_{side}" for i in range(2) for side in ("after", "before")] + ["vit.layernorm"]
    assert config["peft_type"] == "LN_TUNING" and sorted(config["target_modules"]) == sorted(norms)
    tensors = load_file(out / "adapter_model.safetensors")
    own = {f"base_model.model.{norm}.ln_tuning_layers.{name}" for norm in norms for name in ("weight", "bias")}
    assert tensors.keys() == own | {f"base_model.model.classifier.{name}" for name in ("weight", "bias")}
    theirs, wanted = back(out, IMAGE).params, flatten(load_model(tmp_path / "run").params)
    for path, leaf in flatten(theirs).items():
        np.testing.assert_array_equal(leaf, wanted[path])


def test_a_base_of_half_precision_is_read_leaf_by_leaf(adapted, tmp_path):
    shutil.copytree(adapted / "source", tmp_path / "half")
    halves = {key: x.astype(np.float16) for key, x in weights(adapted / "source").items()}
    save_file(halves, tmp_path / "half" / "model.safetensors")
    jaxfer.run(config_of(tmp_path / "half", IMAGE, **LORA), tmp_path / "run", quiet=True)
    finished = open_run(tmp_path / "run")
    params, state = finished.stage.leave(finished.state)
    layout = foreign.opened(str(tmp_path / "half"), "auto", {}).layout
    model, source = {"params": params, **state}, peft.source(finished, layout)
    assert all(isinstance(leaf, Stored) for leaf in peft.compared(source, layout, finished, model)[1].values())
    held = jaxfer.adapters({"run": tmp_path / "run", "file": jaxfer.export(tmp_path / "run", format="peft")})
    x = batch(held.switch("run").port, examples=4)
    found, expected = (np.asarray(held.switch(name).network(x).outputs) for name in ("file", "run"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    out = jaxfer.export(tmp_path / "run", format="peft", as_lora=2, out=tmp_path / "low")
    for path, leaf in flatten(back(out, IMAGE).params).items():
        np.testing.assert_allclose(leaf, flatten(params)[path], rtol=0, atol=1e-6)


def test_the_nearest_product_of_a_rank():
    rng = np.random.RandomState(0)
    u, v = (np.linalg.qr(rng.randn(n, 3))[0] for n in (5, 8))
    change = (u * [4.0, 2.0, 1.0]) @ v.T
    a, b = as_lora.factors(change, 2)
    assert (a.shape, b.shape) == ((2, 8), (5, 2))
    assert np.linalg.norm(change - b @ a) == pytest.approx(1.0, abs=1e-6)  # the singular value that is left
    a, b = as_lora.factors(change.reshape(5, 2, 2, 2), 6)  # a convolution, and a rank above its own
    assert (a.shape, b.shape) == ((6, 2, 2, 2), (5, 6, 1, 1))
    np.testing.assert_allclose(b[:, :, 0, 0] @ a.reshape(6, 8), change, atol=1e-6)

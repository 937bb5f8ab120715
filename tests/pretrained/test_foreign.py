"""Starting from other people's checkpoints: what their files decide, and where they may lie."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import constants
from ml_collections import ConfigDict

import jaxfer
from jaxfer.errors import InputError
from jaxfer.pretrained import foreign, starting
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.hub import find
from jaxfer.pretrained.layout import store
from jaxfer.registry import MODELS
from jaxfer.rules import flatten
from jaxfer.sweeps.cells import identity_hash
from jaxfer.training import lineage
from jaxfer.training.preflight import preflight
from tests.experiments import TOKENIZER, tiny_config
from tests.models.tiny import TINY, draw
from tests.pretrained.checkpoints import (
    CIFAR,
    MOBILENET,
    RESNET,
    VIT,
    assert_same,
    begin,
    checkpoint,
    config_of,
    edit,
)
from tests.pretrained.torch_archives import new_archive, tensor


@pytest.mark.parametrize("family, options", [("resnet", RESNET), ("vit", VIT), ("mobilenet_v1", MOBILENET)])
def test_the_model_is_the_checkpoints_own_and_so_are_its_weights(tmp_path, family, options):
    _, params, state = checkpoint(tmp_path / "source", family, options)
    plan = preflight(config_of(tmp_path / "source", options["image"]))
    assert plan.experiment.model.name == family
    found = dict(plan.experiment.model.options)
    assert {name: found[name] for name in options} == options
    start = lineage.begin(plan, tmp_path)
    assert_same(start.params, params)
    assert_same(start.model_state, state)
    assert {entry["what"] for entry in start.ledger.values()} <= {"loaded", "renamed", "transposed"}


def test_ledger_json_and_its_table(resnet, tmp_path, capsys):
    folder, _ = resnet
    edit(folder / "config.json", id2label={"0": "cat", "1": "dog", "2": "cow"})
    jaxfer.run(config_of(folder), tmp_path / "run")
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    entry = {"what": "transposed", "from": "resnet.embedder.embedder.convolution.weight", "shape": [7, 7, 3, 4]}
    assert ledger["leaves"]["params/stem/conv/kernel"] == entry
    assert ledger["leaves"]["params/head/out/bias"] == {
        "what": "re-initialised",
        "from": "classifier.1.bias",
        "shape": [3],
        "why": "the classes differ from the source's",
    }
    norms = [key for key in ledger["unused"] if key.endswith("num_batches_tracked")]
    assert sorted(set(ledger["unused"]) - set(norms)) == ["classifier.1.bias", "classifier.1.weight"]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    sha256 = starting.source_sha256(str(folder), tmp_path)
    assert ledger["source_sha256"] == result["lineage"]["source_sha256"] == sha256
    said = capsys.readouterr().err.splitlines()
    head = next(i for i, line in enumerate(said) if line.startswith(f"{folder}: "))
    assert said[head].endswith("leaves: 24 renamed, 6 transposed, 2 re-initialised")
    assert (
        said[head + 1]
        == "  re-initialised (the classes differ from the source's): head/out/bias 3, head/out/kernel 8x3"
    )


def test_config_json_is_complete_and_gives_the_same_run_again(resnet, tmp_path):
    folder, _ = resnet
    result = jaxfer.run(config_of(folder), tmp_path / "run", quiet=True)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["model"]["name"] == "resnet" and stored["model"]["stage_sizes"] == [1, 1]
    assert jaxfer.run(ConfigDict(stored), tmp_path / "run", quiet=True) == result


def test_show_allocates_nothing_and_needs_no_model_in_the_config(vit):
    folder, (port, params, _) = vit
    (summary,) = jaxfer.show(config_of(folder, (8, 12, 3)))
    assert summary.params_total == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert summary.stage.spec.port.module == port.module


@pytest.mark.parametrize("family, options", [("resnet", RESNET), ("vit", VIT), ("mobilenet_v1", MOBILENET)])
def test_bare_weights_take_from_the_config_what_shapes_do_not_tell(tmp_path, family, options):
    _, params, _ = checkpoint(tmp_path / "source", family, options)
    file = tmp_path / "weights.safetensors"
    (tmp_path / "source" / "model.safetensors").rename(file)
    config = config_of(file, options["image"], head="keep")
    with pytest.raises(InputError, match="no config.json that states the model; set config.model.name to one of"):
        preflight(config)
    config.model.name, config.model.image = family, options["image"]
    if family == "vit":
        with pytest.raises(InputError, match="shapes don't determine the heads; set config.model.heads"):
            preflight(config)
        config.model.heads = 3
    if family == "mobilenet_v1":
        config.model.min_depth = 4
        config.model.depth_multiplier = 0.1
    assert_same(begin(config).params, params)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_bare_weights_of_a_bert_lack_the_heads_alone(tmp_path, suffix):
    """As `BertModel` saves them; the .bin has the norms' names of 2018 and the buffer that was saved then."""
    port = MODELS.make("bert", **TINY["bert_pooler"][1])
    params, _ = draw(port)
    theirs = {key.removeprefix("bert."): x for key, x in store(params, {}, by_family("bert", "hf"), port).items()}
    theirs = {key: np.asarray(x) for key, x in theirs.items() if not key.startswith("classifier")}
    file = tmp_path / f"weights.{suffix}"
    if suffix == "bin":
        norms = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for ours, old in norms.items():
            theirs = {key.replace(ours, old): x for key, x in theirs.items()}
        state = {key: tensor(x) for key, x in {**theirs, "embeddings.position_ids": np.arange(9)[None]}.items()}
        file.write_bytes(new_archive(state))
    else:
        safetensors.numpy.save_file(theirs, file)
    config = tiny_config("bert_pooler", init=str(file))
    config.model = dict(name="bert", tokenizer=TOKENIZER)
    with pytest.raises(InputError) as error:
        preflight(config)
    asked = "no config.json, and shapes don't determine the heads; set config.model.heads, a divisor of the width 12"
    assert str(error.value) == f"config.init={file}: {asked}"
    config.model.heads = 3
    start = begin(config)
    fresh = [leaf for leaf, entry in start.ledger.items() if entry["what"] in ("missing", "re-initialised")]
    assert sorted(fresh) == ["params/head/out/bias", "params/head/out/kernel"]
    found, expected = flatten(start.params), flatten(params)
    for leaf in found.keys() - {"head/out/bias", "head/out/kernel"}:
        np.testing.assert_array_equal(found[leaf], expected[leaf], err_msg=leaf)
    assert (start.ledger["params/stem/norm/scale"]["from"]).endswith("gamma" if suffix == "bin" else "weight")


def test_torchvision_names_alone(tmp_path):
    _, params, _ = checkpoint(tmp_path / "source", "resnet", CIFAR, layout="torchvision")
    file = tmp_path / "weights.safetensors"
    (tmp_path / "source" / "model.safetensors").rename(file)
    config = config_of(file, (8, 8, 3), head="keep")
    config.model = dict(name="resnet", image=(8, 8, 3))
    start = begin(config)
    assert_same(start.params, params)
    assert start.lineage["source"]["layout"] == "resnet/torchvision"


def test_another_checkpoint_under_the_same_name_is_another_run(resnet, tmp_path):
    folder, _ = resnet
    config = config_of(folder)
    jaxfer.run(config, tmp_path / "run", quiet=True)
    before = identity_hash(preflight(config))
    port = MODELS.make("resnet", outputs=3, **RESNET)
    tensors = store(*draw(port, seed=1), by_family("resnet", "hf"), port)
    safetensors.numpy.save_file({k: np.asarray(v) for k, v in tensors.items()}, folder / "model.safetensors")
    assert identity_hash(preflight(config)) != before
    with pytest.raises(InputError, match="the source has changed since the run began .sha256 .*; restore it"):
        jaxfer.run(config, tmp_path / "run", quiet=True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """(name, commit, refs) -> the folder of that snapshot in a Hub cache without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def snapshot(name, commit, *refs):
        folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "snapshots").mkdir(exist_ok=True)
        for ref in refs:
            (folder / "refs" / ref).write_text(commit)
        return folder / "snapshots" / commit

    return snapshot


def test_a_name_on_the_hub_at_a_revision(hub, tmp_path, monkeypatch):
    first, second, name = "1" * 40, "2" * 40, "tests/two-commits"
    _, params, _ = checkpoint(hub(name, first, "v1"), "resnet", RESNET)
    checkpoint(hub(name, second, "main"), "resnet", {**RESNET, "width": 6})
    for revision, commit, width in [("@v1", first, 4), (f"@{first}", first, 4), ("", second, 6), ("@main", second, 6)]:
        found = foreign.opened(f"{name}{revision}", "auto", {})
        assert (found.files.commit, found.files.init, found.options["width"]) == (commit, name, width)
    start = begin(config_of(f"{name}@v1"))
    assert_same(start.params, params)
    assert start.lineage["init"] == f"{name}@v1" and start.lineage["source"]["commit"] == first
    sha256 = [starting.source_sha256(f"{name}{revision}", tmp_path) for revision in ("@v1", "", "@v3")]
    assert sha256[0] == start.lineage["source_sha256"] != sha256[1] and sha256[2] is None
    with pytest.raises(InputError, match=f"{name}: .* can't be reached at revision 'v3'") as caught:
        preflight(config_of(f"{name}@v3"))
    assert "\n" not in str(caught.value)
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "tests" / "two-commits@v1", "resnet", {**RESNET, "width": 5})
    assert foreign.opened(f"{name}@v1", "auto", {}).options["width"] == 5  # what is here wins


def test_an_adapter_on_the_hub_and_its_base_there(hub):
    checkpoint(hub("tests/base", "3" * 40, "v1"), "vit", VIT)
    folder = hub("tests/adapter", "4" * 40, "main")
    folder.mkdir()
    query = "base_model.model.vit.layers.0.attention.q_proj.lora_"
    low = {f"{query}A.weight": np.ones((1, 12), np.float32), f"{query}B.weight": np.ones((12, 1), np.float32)}
    safetensors.numpy.save_file(low, folder / "adapter_model.safetensors")
    base = {"base_model_name_or_path": "tests/base", "revision": "v1"}
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 2, **base}))
    start = begin(config_of("tests/adapter", (8, 12, 3)))
    source = start.lineage["source"]
    assert (source["commit"], source["adapter_base"]["commit"]) == ("4" * 40, "3" * 40)
    assert [leaf for leaf, entry in start.ledger.items() if entry["what"] == "merged"] == [
        "params/block_0/attn/query/kernel"
    ]
    edit(folder / "adapter_config.json", revision="v2")
    with pytest.raises(InputError, match="tests/adapter: the adapter's base model 'tests/base': .* at revision 'v2'"):
        find("tests/adapter")


def test_unknown_things_are_named(tmp_path, resnet):
    with pytest.raises(InputError, match="run:FOLDER or sibling:NAME, found .*; give a checkpoint as"):
        preflight(config_of("rnu:somewhere"))
    with pytest.raises(InputError, match="no such folder or file"):
        preflight(config_of(tmp_path / "nowhere"))
    for unknown, close in (("resnet_v9", "nearest: 'resnet'"), ("zzz", "known: .*bert, .*vit")):
        edit(resnet[0] / "config.json", model_type=unknown)
        line = f"model_type '{unknown}' in config.json is of no family that jaxfer reads; {close}.*: a new family is a "
        with pytest.raises(InputError, match=f"{line}model, a layout and a tiny case, see docs/extending.md"):
            preflight(config_of(resnet[0]))

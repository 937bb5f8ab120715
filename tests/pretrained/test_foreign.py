"""Starting from other people's checkpoints: what the files decide, what must be announced, what stops the run."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from huggingface_hub import constants
from ml_collections import ConfigDict

import jaxfer
from jaxfer import pretrained
from jaxfer.errors import InputError
from jaxfer.preflight import preflight
from jaxfer.pretrained import foreign, surgery
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.hub import find
from jaxfer.pretrained.layout import store
from jaxfer.registry import MODELS
from jaxfer.rules import flatten
from jaxfer.sweeps.cells import identity_hash
from tests.models.tiny import draw
from tests.pretrained.checkpoints import (
    CIFAR,
    CLASSES,
    MOBILENET,
    RESNET,
    VIT,
    assert_same,
    checkpoint,
    config_of,
    edit,
)


@pytest.fixture
def resnet(tmp_path):
    return tmp_path / "resnet", checkpoint(tmp_path / "resnet", "resnet", RESNET)


@pytest.fixture
def vit(tmp_path):
    return tmp_path / "vit", checkpoint(tmp_path / "vit", "vit", VIT)


def begin(config):
    return pretrained.start(preflight(config), epath.Path("unused"))


def leaves(start):
    return {f"params/{path}": np.asarray(leaf) for path, leaf in flatten(start.params).items()}


@pytest.mark.parametrize("family, options", [("resnet", RESNET), ("vit", VIT), ("mobilenet_v1", MOBILENET)])
def test_the_model_is_the_checkpoints_own_and_so_are_its_weights(tmp_path, family, options):
    _, params, state = checkpoint(tmp_path / "source", family, options)
    plan = preflight(config_of(tmp_path / "source", options["image"]))
    assert plan.experiment.model.name == family
    found = dict(plan.experiment.model.options)
    assert {name: found[name] for name in options} == options
    start = pretrained.start(plan, tmp_path)
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
        "why": "other classes than the source's",
    }
    norms = [key for key in ledger["unused"] if key.endswith("num_batches_tracked")]
    assert sorted(set(ledger["unused"]) - set(norms)) == ["classifier.1.bias", "classifier.1.weight"]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    sha256 = pretrained.source_sha256(str(folder), tmp_path)
    assert ledger["source_sha256"] == result["lineage"]["source_sha256"] == sha256
    said = capsys.readouterr().err.splitlines()
    head = next(i for i, line in enumerate(said) if line.startswith(f"{folder}: "))
    assert said[head].endswith("leaves: 24 renamed, 6 transposed, 2 re-initialised")
    assert said[head + 1] == "  re-initialised (other classes than the source's): head/out/bias 3, head/out/kernel 8x3"


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


def test_a_contradiction_is_refused_with_both_values(resnet):
    folder, _ = resnet
    with pytest.raises(InputError, match=r"width is 4 there, 8 here.*announce what may differ"):
        preflight(config_of(folder, model=dict(width=8)))
    with pytest.raises(InputError, match=r"mean is \(0.5, 0.25, 0.125\) there, \(0.5,\) here"):
        preflight(config_of(folder, model=dict(mean=(0.5,))))
    with pytest.raises(InputError, match="config.model.name is 'vit' here, config.json .* 'resnet'"):
        config = config_of(folder)
        config.model.name = "vit"
        preflight(config)
    with pytest.raises(InputError, match="unknown field config.model.widht; nearest: 'width'"):
        preflight(config_of(folder, model=dict(widht=8)))
    with pytest.raises(InputError, match="config.differs: .* no option 'imgae'; nearest: 'image'"):
        preflight(config_of(folder, differs=("imgae",)))


def test_what_only_training_sees_is_free_and_announced_statistics_are_taken(resnet):
    folder, _ = resnet
    config = config_of(folder, model=dict(stochastic_depth=0.1, mean=(0.5,)), differs=("mean",))
    found = dict(preflight(config).experiment.model.options)
    assert (found["stochastic_depth"], found["mean"], found["std"]) == (0.1, (0.5,), (0.5, 0.25, 1.0))


def test_auto_needs_a_checkpoint():
    config = config_of("scratch")
    with pytest.raises(InputError, match="config.model.name=auto takes the model of the checkpoint"):
        preflight(config)


def test_overrides_reach_the_model_that_is_not_known_yet(resnet, tmp_path):
    folder, _ = resnet
    file = tmp_path / "c.py"
    file.write_text("import jaxfer.config\n\n\ndef get_config(arg=''):\n    return jaxfer.config.base()\n")
    config = jaxfer.load(
        str(file), {"model.name": "auto", "model.image": "8,8,3", "init": str(folder), "differs": "image"}
    )
    assert dict(preflight(config).experiment.model.options)["image"] == (8, 8, 3)


def test_another_resolution_resizes_position_embeddings_if_announced(vit):
    folder, (_, params, _) = vit
    with pytest.raises(InputError, match=r"image is \(8, 12, 3\) there, \(16, 8, 3\) here"):
        begin(config_of(folder, (8, 8, 3), model=dict(image=(16, 8, 3))))
    start = begin(config_of(folder, (8, 8, 3), model=dict(image=(16, 8, 3)), differs=("image",)))
    expected = surgery.resize_positions(np.asarray(params["stem"]["pos"]), (2, 3), (4, 2), extra=1)
    assert expected.shape == (1, 9, 12)
    np.testing.assert_array_equal(start.params["stem"]["pos"], expected)
    assert start.ledger["params/stem/pos"]["what"] == "resized"
    assert start.ledger["params/stem/patch/kernel"]["what"] == "transposed"
    assert "  resized: stem/pos 1x9x12" in start.table()


@pytest.mark.parametrize("stated, expected", [({"shortest_edge": 32}, (16,)), ({"height": 32, "width": 20}, (16, 10))])
def test_another_resolution_cuts_out_the_same_share(resnet, stated, expected):
    folder, _ = resnet
    crop = {"height": 16, "width": 16}
    edit(folder / "preprocessor_config.json", size=stated, do_center_crop=True, crop_size=crop)
    config = config_of(folder, model=dict(image=(8, 8, 3)), differs=("image",))
    plan = preflight(config)
    assert dict(plan.experiment.model.options)["resize"] == expected
    assert preflight(ConfigDict(plan.experiment.to_dict())).experiment == plan.experiment


@pytest.mark.parametrize("channels", [1, 13])
@pytest.mark.parametrize("family, leaf", [("resnet", "stem/conv/kernel"), ("vit", "stem/patch/kernel")])
def test_other_channels_inflate_the_first_convolution_if_announced(tmp_path, channels, family, leaf):
    options = RESNET if family == "resnet" else VIT
    image = (*options["image"][:2], channels)
    _, params, _ = checkpoint(tmp_path / "source", family, options)
    config = config_of(tmp_path / "source", image, model=dict(image=image), differs=("image",))
    plan = preflight(config)
    start = pretrained.start(plan, tmp_path)
    expected = surgery.inflate_input(np.asarray(flatten(params)[leaf]), channels)
    np.testing.assert_array_equal(flatten(start.params)[leaf], expected)
    assert start.ledger[f"params/{leaf}"]["what"] == "inflated"
    if family == "resnet":
        mean = dict(plan.experiment.model.options)["mean"]
        in_turn = (0.5, 0.25, 0.125) * 4 + (0.5,)
        assert mean == in_turn if channels == 13 else mean == pytest.approx((0.875 / 3,))


def test_other_channels_stop_the_run_unannounced(tmp_path):
    """Also where the files leave the image open: nothing tells a CIFAR network its size."""
    checkpoint(tmp_path / "cifar", "resnet", CIFAR, layout="torchvision")
    edit(tmp_path / "cifar" / "config.json", input=None, id2label=None)
    (tmp_path / "cifar" / "preprocessor_config.json").unlink()
    assert dict(preflight(config_of(tmp_path / "cifar", model=dict(image=(9, 9, 3)))).experiment.model.options)[
        "image"
    ] == (9, 9, 3)
    with pytest.raises(InputError, match=r"conv1.weight \(4, 3, 3, 3\) for .* \(3, 3, 1, 4\); announce what differs"):
        begin(config_of(tmp_path / "cifar", model=dict(image=(9, 9, 1))))


def test_the_head_stays_for_the_same_classes_and_goes_for_others(resnet):
    folder, (_, params, _) = resnet
    kept = begin(config_of(folder))
    np.testing.assert_array_equal(kept.params["head"]["out"]["kernel"], params["head"]["out"]["kernel"])
    reset = begin(config_of(folder, head="reset"))
    assert reset.ledger["params/head/out/kernel"]["why"] == "config.head=reset"
    assert not np.array_equal(reset.params["head"]["out"]["kernel"], params["head"]["out"]["kernel"])
    edit(folder / "config.json", id2label={"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"})
    unnamed = begin(config_of(folder))
    assert unnamed.ledger["params/head/out/kernel"]["why"] == "the source's classes have no names"
    kept = begin(config_of(folder, head="keep"))
    np.testing.assert_array_equal(kept.params["head"]["out"]["kernel"], params["head"]["out"]["kernel"])
    edit(folder / "config.json", id2label={"0": CLASSES[2], "1": CLASSES[0], "2": CLASSES[1]})
    with pytest.raises(InputError, match="classes in another order .class_2, class_0, class_1.; set config.data.class"):
        begin(config_of(folder))


def test_a_head_of_other_width_stops_the_run_where_it_is_to_be_kept(tmp_path):
    checkpoint(tmp_path / "five", "resnet", RESNET, labels=tuple("abcde"))
    assert begin(config_of(tmp_path / "five")).params["head"]["out"]["kernel"].shape == (8, 3)
    with pytest.raises(InputError, match=r"classifier.1.weight \(5, 8\) for params/head/out/kernel \(8, 3\)"):
        begin(config_of(tmp_path / "five", head="keep"))


def test_a_bare_backbone_gets_a_head(vit):
    folder, (_, params, _) = vit
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    backbone = {key.removeprefix("vit."): x for key, x in tensors.items() if not key.startswith("classifier")}
    safetensors.numpy.save_file(backbone, folder / "model.safetensors", {"format": "pt"})
    start = begin(config_of(folder, (8, 12, 3), head="auto"))
    head = {leaf: entry for leaf, entry in start.ledger.items() if leaf.startswith("params/head/out")}
    assert {entry["what"] for entry in head.values()} == {"missing"} and start.params["head"]["out"]["bias"].shape == (
        3,
    )
    np.testing.assert_array_equal(start.params["stem"]["pos"], params["stem"]["pos"])
    with pytest.raises(InputError, match="config.head=keep: .* has no head"):
        begin(config_of(folder, (8, 12, 3), head="keep"))
    with pytest.raises(InputError, match="has no params/head/pooler/.*config.differs=pool"):
        begin(config_of(folder, (8, 12, 3), model=dict(pool="pooler")))
    begin(config_of(folder, (8, 12, 3), model=dict(pool="pooler"), differs=("pool",)))


@pytest.mark.parametrize("family, options", [("resnet", RESNET), ("vit", VIT), ("mobilenet_v1", MOBILENET)])
def test_bare_weights_take_from_the_config_what_shapes_do_not_tell(tmp_path, family, options):
    _, params, _ = checkpoint(tmp_path / "source", family, options)
    file = tmp_path / "weights.safetensors"
    (tmp_path / "source" / "model.safetensors").rename(file)
    config = config_of(file, options["image"], head="keep")
    with pytest.raises(InputError, match="no config.json that says what it is; set config.model.name to one of"):
        preflight(config)
    config.model.name, config.model.image = family, options["image"]
    if family == "vit":
        with pytest.raises(InputError, match="shapes don't tell the heads; set config.model.heads"):
            preflight(config)
        config.model.heads = 3
    if family == "mobilenet_v1":
        config.model.min_depth = 4
        config.model.depth_multiplier = 0.1
    assert_same(begin(config).params, params)


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
    with pytest.raises(InputError, match="begun with another source .sha256 .*; restore it"):
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
        assert (found.found.commit, found.found.init, found.options["width"]) == (commit, name, width)
    start = begin(config_of(f"{name}@v1"))
    assert_same(start.params, params)
    assert start.lineage["init"] == f"{name}@v1" and start.lineage["source"]["commit"] == first
    sha256 = [pretrained.source_sha256(f"{name}{revision}", tmp_path) for revision in ("@v1", "", "@v3")]
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
    with pytest.raises(InputError, match="run:FOLDER or sibling:NAME, found .*; a checkpoint goes by"):
        preflight(config_of("rnu:somewhere"))
    with pytest.raises(InputError, match="no such folder or file"):
        preflight(config_of(tmp_path / "nowhere"))
    edit(resnet[0] / "config.json", model_type="convnext")
    with pytest.raises(InputError, match="model_type='convnext' .* it reads bert, deit, mobilenet_v1, resnet, vit"):
        preflight(config_of(resnet[0]))


def test_auto_is_also_the_model_of_a_run(resnet, tmp_path):
    jaxfer.run(config_of(resnet[0]), tmp_path / "run", quiet=True)
    plan = preflight(config_of(f"run:{tmp_path / 'run'}"))
    assert dict(plan.experiment.model.options)["stage_sizes"] == (1, 1)

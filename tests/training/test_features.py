"""Features: what the taps of the whole split give by hand, whatever the batches, the buckets and the devices."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxfer
from jaxfer.commands import main
from jaxfer.conformance import tiny
from jaxfer.data.prepare import build
from jaxfer.data.sources.synthetic import source
from jaxfer.errors import InputError
from jaxfer.models.port import FEATURES, Passed
from jaxfer.network import Network, of_state
from jaxfer.runs.finished import fingerprint, open_run
from jaxfer.training import features as module
from tests import store
from tests.experiments import tiny_config
from tests.models.own import two_towers
from tests.pretrained.checkpoints import RESNET, VIT, checkpoint

pytestmark = pytest.mark.system

SHORT = {"steps": 1, "eval_every": 0, "save_every": 0}


@functools.cache
def by_hand(folder, unit, split="val"):
    """(split, network, taps of each example read alone: images; or texts, without any padding)."""
    finished = open_run(folder)
    experiment, network = finished.experiment, of_state(finished.stage, finished.state)
    data = build(experiment.data, dict(experiment.source.options), seed=experiment.run.seed, with_test=split == "test")
    examples = data.splits[split]
    reader = network.port.encoding.reader(examples)
    tap = jax.jit(lambda batch: network(batch, taps=(unit,)).taps[unit])
    lengths = [None] * len(examples) if reader.lengths is None else reader.lengths
    taps = [np.asarray(tap(reader(np.array([i]), lengths[i], None))) for i in range(len(examples))]
    return examples, network, taps


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A LoRA run of a vision transformer whose adapters are not at zero, in batches of 5."""
    folder = tmp_path_factory.mktemp("features") / "run"
    jaxfer.run(tiny_config("vit_cls", method="lora", lr=1e-1, eval_batch_size=5, **SHORT), folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def phrases(tmp_path_factory):
    """A run of a text model whose batches of 4 are of several lengths."""
    config = tiny_config("bert_pooler", eval_batch_size=4, **SHORT)
    config.model.buckets = (4, 5, 7)
    folder = tmp_path_factory.mktemp("features") / "run"
    jaxfer.run(config, folder, quiet=True)
    return folder


@pytest.mark.parametrize("unit", [FEATURES, "block_0", "head"])
def test_of_images(images, unit):
    examples, network, taps = by_hand(images, unit)
    found = jaxfer.features(images, unit=unit).arrays()
    assert set(found) == {"features", "row", "label", "about"}
    assert found["features"].dtype == np.float32 and len(examples) % 5
    close(found["features"], np.concatenate(taps))
    np.testing.assert_array_equal(found["label"], examples.labels)
    np.testing.assert_array_equal(found["row"], examples.rows)
    assert found["row"].dtype == np.int64
    about = json.loads(str(found["about"]))
    assert about["unit"] == unit and about["run"] == str(images) and about["split"] == "val"
    assert about["weights_sha256"] == fingerprint(network.params, network.model_state)
    assert about["encodings"][0]["size"] == [6, 9, 3] and about["versions"]["jaxfer"] == jaxfer.__version__


def test_the_mean_of_patches_leaves_the_class_token_out(images):
    _, _, taps = by_hand(images, "block_1")
    found = jaxfer.features(images, unit="block_1", pool="mean").arrays()["features"]
    assert taps[0].shape == (1, 7, 12)
    close(found, np.concatenate(taps)[:, 1:].mean(1))


def test_an_adapter_counts(images):
    finished = open_run(images)
    bare = finished.stage.spec.port.forward
    data = build(finished.experiment.data, dict(finished.experiment.source.options), seed=0, with_test=False)
    split = data.splits["val"]
    batch = finished.stage.spec.port.encoding.reader(split)(np.arange(len(split)), None, None)
    params = {name: leaf for name, leaf in finished.state.params.items() if name != "lora"}
    without = bare(params, finished.state.model_state, batch, taps=(FEATURES,)).taps[FEATURES]
    assert np.abs(jaxfer.features(images).arrays()["features"] - without).max() > 1e-3


@pytest.mark.parametrize(
    "axes",
    [
        {"devices": 1},
        *(pytest.param(axes, marks=pytest.mark.rest) for axes in ({"devices": 4}, {"fsdp": 4})),
        {"fsdp": 2, "tensor": 2},
    ],
)
def test_devices_change_nothing(images, axes):
    overrides = {f"parallel.{name}": value for name, value in axes.items()}
    found = jaxfer.features(images, unit="block_1", overrides=overrides).arrays()
    close(found["features"], np.concatenate(by_hand(images, "block_1")[2]))


def test_of_texts_in_buckets(phrases):
    examples, network, taps = by_hand(phrases, "block_1", "train")
    lengths = [tap.shape[1] for tap in taps]
    assert len(set(lengths)) > 2
    found = jaxfer.features(phrases, unit="block_1", split="train").arrays()
    assert found["features"].shape == (len(examples), max(lengths), 12)
    assert found["mask"].dtype == bool and list(found["mask"].sum(1)) == lengths
    for i, (tap, length) in enumerate(zip(taps, lengths, strict=True)):
        close(found["features"][i, :length], tap[0])
        assert not found["features"][i, length:].any()
    pooled = jaxfer.features(phrases, unit="block_1", split="train", pool="mean").arrays()
    assert "mask" not in pooled
    close(pooled["features"], [tap[0].mean(0) for tap in taps])
    vectors = jaxfer.features(phrases, split="train").arrays()
    assert "mask" not in vectors
    close(vectors["features"], np.concatenate(by_hand(phrases, FEATURES, "train")[2]))


def test_pairs_that_are_read_apart(tmp_path):
    jaxfer.run(jaxfer.load("configs/stsb_similarity.py:tiny", {"eval_batch_size": 3, **SHORT}), tmp_path, quiet=True)
    examples, network, taps = by_hand(tmp_path, "block_0")
    found = jaxfer.features(tmp_path, unit="block_0").arrays()
    lengths = found["mask"].sum(2)
    assert found["features"].shape == (len(examples), 2, lengths.max(), taps[0].shape[2])
    reader = network.port.encoding.reader(examples)
    assert (
        lengths.T.tolist() == [part.lengths.tolist() for part in reader.parts]
        and (lengths[:, 0] != lengths[:, 1]).any()
    )
    pooled = jaxfer.features(tmp_path, unit="block_0", pool="mean").arrays()["features"]
    for i, text in np.ndindex(*lengths.shape):
        tokens = taps[i][text, : lengths[i, text]]
        close(found["features"][i, text, : lengths[i, text]], tokens)
        close(pooled[i, text], tokens.mean(0))
    np.testing.assert_array_equal(found["label"], examples.labels)


def test_windows_name_the_row_that_they_are_of(tmp_path):
    short = {"parallel.devices": 1, "eval_batch_size": 3, "eval_every": 0}
    jaxfer.run(jaxfer.load("configs/squad_small.py:tiny", short), tmp_path, quiet=True)
    finished = open_run(tmp_path)
    experiment, spec = finished.experiment, finished.stage.spec
    split = build(experiment.data, dict(experiment.source.options), seed=0, with_test=False).splits["train"]
    windows = spec.task.expanded(split, spec.port.encodings)
    found = jaxfer.features(tmp_path, split="train", pool="mean")
    assert len(found.row) == found.shape[0] == len(windows) > len(split)
    np.testing.assert_array_equal(found.row, split.rows[windows.columns["text"].examples])
    assert found.label is None and len(found.arrays()["features"]) == len(windows)


def test_the_file_is_what_is_in_memory(images, phrases, tmp_path, capsys):
    out = tmp_path / "new" / "f.npz"
    for _ in range(2):  # a file of ours is replaced
        argv = ["features", str(phrases), "--unit=block_0", "--split=test", f"--out={out}", "--nocache"]
        assert main(argv) == 0
    found = jaxfer.features(phrases, unit="block_0", split="test")
    assert capsys.readouterr().out.splitlines()[-1] == f"{out}: features [{', '.join(map(str, found.shape))}]"
    with np.load(out) as file:
        for name, array in found.arrays().items():
            np.testing.assert_array_equal(file[name], array)
        assert sorted(file.files) == ["about", "features", "label", "mask", "row"]
    before = out.read_bytes()
    found.write(out)
    assert out.read_bytes() == before and [path.name for path in out.parent.iterdir()] == ["f.npz"]
    store.register(tmp_path)
    jaxfer.features(phrases, unit="block_0", split="test").write("s3://bucket/g.npz")
    assert (tmp_path / "bucket/g.npz").read_bytes() == before


def test_a_torn_file_never_appears(images, tmp_path):
    found = jaxfer.features(images)

    def torn():
        yield next(found.batches())
        raise RuntimeError("pulled")

    for out in (tmp_path / "f.npz", "s3://bucket/f.npz"):
        store.register(tmp_path)
        with pytest.raises(RuntimeError, match="pulled"):
            dataclasses.replace(found, batches=torn).write(out)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_later_unit_is_not_computed(images):
    """What nothing reads costs nothing: the stem alone takes less than half of the operations of the whole."""
    finished = open_run(images)
    network = of_state(finished.stage, finished.state)

    def flops(unit):
        reading = module.Reading.of(network, unit, False)
        step = jax.jit(lambda arrays, batch: reading(network.with_arrays(*arrays), batch))
        return step.lower(network.arrays, network.port.example(4)).compile().cost_analysis()["flops"]

    assert flops("stem") < flops("head") / 3


DATA = {"data.source": "synthetic", "data.image": (16, 12, 3), "data.classes_count": 5, "data.examples": 40}


def test_of_a_checkpoint_on_data_of_other_classes(tmp_path):
    port, params, state = checkpoint(tmp_path / "net", "resnet", RESNET)
    found = jaxfer.features(str(tmp_path / "net"), overrides=DATA, split="train", quiet=True)
    split = source(image=(16, 12, 3), classes_count=5, examples=40).splits["train"].take(found.row)
    batch = port.encoding.reader(split)(np.arange(len(split)), None, None)
    close(found.arrays()["features"], port.forward(params, state, batch, taps=(FEATURES,)).taps[FEATURES])
    assert found.about["checkpoint"] == str(tmp_path / "net") and len(found.about["classes"]) == 5
    with pytest.raises(InputError, match="--unit=head: it reads head/out/bias, which is not taken .* as 'features'"):
        jaxfer.features(str(tmp_path / "net"), overrides=DATA, unit="head")
    with pytest.raises(InputError, match="--checkpoint=best is for runs"):
        jaxfer.features(str(tmp_path / "net"), overrides=DATA, checkpoint="best")


def test_of_a_checkpoint_without_a_head(tmp_path):
    port, params, state = checkpoint(tmp_path / "net", "vit", VIT)
    tensors = load_file(tmp_path / "net/model.safetensors")
    backbone = {key: x for key, x in tensors.items() if not key.startswith("classifier")}
    assert len(backbone) == len(tensors) - 2
    save_file(backbone, tmp_path / "net/model.safetensors", {"format": "pt"})
    data = {**DATA, "data.image": (8, 12, 3)}
    found = jaxfer.features(str(tmp_path / "net"), overrides=data, unit="block_0", pool="mean", quiet=True)
    split = source(image=(8, 12, 3), classes_count=5, examples=40).splits["val"].take(found.row)
    batch = port.encoding.reader(split)(np.arange(len(split)), None, None)
    wanted = port.forward(params, state, batch, taps=("block_0",)).taps["block_0"][:, 1:].mean(1)
    close(found.arrays()["features"], wanted)


def test_the_test_split_of_a_comparison_stays_sealed(images, tmp_path):
    shutil.copytree(images, tmp_path / "cells/a")
    (tmp_path / "protocol.json").write_text("{}")
    with pytest.raises(InputError, match="its test split is sealed until"):
        jaxfer.features(tmp_path / "cells/a", split="test")


def test_what_can_not_be_one_array():
    port = two_towers.port(outputs=3)
    params, state = tiny.draw(port)
    with pytest.raises(InputError, match="--unit=b_0: it gives a tree of 3 array.s.; name a unit that gives one"):
        module.Reading.of(Network(port=port, params=params, model_state=state), "b_0", False)

    class Halved(Network):  # a text model that joins neighbouring tokens
        def __call__(self, batch, *, taps):
            x = super().__call__(batch, taps=taps).taps[taps[0]]
            return Passed(None, None, {taps[0]: x[:, ::2]})

    port = tiny.make("bert_pooler")
    params, state = tiny.draw(port)
    with pytest.raises(
        InputError, match=r"--unit=stem: it gives \[4, 12\] for the longest text, .* such as 'features'"
    ):
        module.Reading.of(Halved(port=port, params=params, model_state=state), "stem", False)


def test_an_empty_split(images, monkeypatch):
    finished, experiment, data = module.reopened(images, "val", "result", {})
    empty = dataclasses.replace(data, splits={**data.splits, "val": data.splits["val"].take(np.arange(0))})
    monkeypatch.setattr(module, "reopened", lambda *_: (finished, experiment, empty))
    with pytest.raises(InputError, match="split 'val' has no examples; choose another, or correct config.data"):
        jaxfer.features(images)


def test_data_of_other_classes(images):
    """Rows are the source's, labels those of the chosen classes in their order."""
    whole, classes = jaxfer.features(images, split="train").arrays(), ("class_2", "class_0")
    found = jaxfer.features(images, split="train", overrides={"data.classes": classes})
    assert found.about["classes"] == list(classes) and 0 < len(found.row) < len(whole["row"])
    places = np.searchsorted(whole["row"], found.row)
    np.testing.assert_array_equal(whole["label"][places], np.array([2, 0])[found.label])
    close(found.arrays()["features"], whole["features"][places])

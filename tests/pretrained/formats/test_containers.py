"""State dicts as training scripts leave them: found behind keys and prefixes, or named with `config.init_options`."""

from __future__ import annotations

import argparse
import collections

import numpy as np
import pytest
from etils import epath
from safetensors.numpy import save_file

from jaxfer.config.experiment import InitOptions
from jaxfer.errors import InputError
from jaxfer.pretrained import foreign, located
from jaxfer.pretrained.formats import containers
from jaxfer.pretrained.formats.reading import read
from jaxfer.training import lineage
from jaxfer.training.preflight import preflight
from tests.pretrained.checkpoints import CIFAR, RESNET, checkpoint, config_of, weights
from tests.pretrained.torch_archives import Call, new_archive, tensor


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """A tiny ResNet under torchvision's names."""
    folder = tmp_path_factory.mktemp("containers") / "resnet"
    checkpoint(folder, "resnet", CIFAR, layout="torchvision")
    return {key: tensor(x) for key, x in weights(folder).items()}


def under(prefix, state, but=()):
    return {prefix + key: x for key, x in state.items() if not key.startswith(but or "\0")}


def opened(folder, content, **options):
    (folder / "x.pth").write_bytes(new_archive(content))
    found = foreign.opened(str(folder / "x.pth"), "resnet", {}, InitOptions(**options))
    return located.weights(found.files)


OPTIMIZER = {"state": {0: {"exp_avg": tensor([9.0])}}, "param_groups": [{"lr": 0.1}]}
CALLBACK = Call("pytorch_lightning.callbacks", "ModelCheckpoint")
CONTAINERS = {
    "pytorch-cifar": (lambda s: {"net": under("module.", s), "acc": 93.0, "epoch": 1}, ("net", "module.")),
    "torchvision": (lambda s: {"model": s, "args": argparse.Namespace(lr=0.1), "optimizer": OPTIMIZER}, ("model",)),
    "a NumPy scalar": (lambda s: {"state_dict": s, "best": np.float64(0.9)}, ("state_dict",)),
    "Lightning": (
        lambda s: {
            "state_dict": {**under("model.", s), "criterion.weight": tensor([1.0])},
            "callbacks": {CALLBACK: {"best_model_score": tensor(0.5)}},
            "lr_schedulers": [{"milestones": collections.Counter([30])}],
            "hyper_parameters": argparse.Namespace(width=4),
            "optimizer_states": [OPTIMIZER],
        },
        ("state_dict", "model."),
    ),
    "Lightning, net": (lambda s: {"state_dict": under("net.", s), "epoch": 1}, ("state_dict", "net.")),
    "AveragedModel": (lambda s: {**under("module.", s), "n_averaged": tensor(3)}, ("module.",)),
    "a backbone": (lambda s: under("backbone.", s), ("backbone.",)),
    "an encoder": (lambda s: under("encoder.", s, but="linear"), ("encoder.",)),
    "MoCo": (
        lambda s: {
            "state_dict": {
                **under("module.encoder_q.", s),
                **under("module.encoder_k.", s),
                "module.queue": tensor(np.zeros((2, 3), np.float32)),
            }
        },
        ("state_dict", "module.", "encoder_q."),
    ),
    "DINO": (
        lambda s: {
            "student": under("module.backbone.", s),
            "teacher": {**under("backbone.", s), "head.last.weight": tensor([1.0])},
            "dino_loss": {"center": tensor([0.0])},
        },
        ("teacher", "backbone."),
    ),
    "one of its own name": (lambda s: {"my_weights": s, "rng": tensor([1, 2])}, ("my_weights",)),
    "settings of that name": (lambda s: {"model": {"name": "resnet"}, "weights": s}, ("weights",)),
    "tensors with attributes": (lambda s: {"state_dict": s, "gone": CALLBACK}, ("state_dict",)),
}


@pytest.mark.parametrize("case", CONTAINERS)
def test_a_container_that_people_have_is_read(case, state, tmp_path):
    make, unwrapped = CONTAINERS[case]
    found = opened(tmp_path, make(state))
    expected = {key: x for key, x in state.items() if case != "an encoder" or not key.startswith("linear")}
    assert found.unwrapped == unwrapped and set(found) == set(expected)
    for key, x in expected.items():
        np.testing.assert_array_equal(found[key].reshape(-1), x.flat)


def test_a_dict_that_is_named_often_is_looked_at_once():
    wide: dict = {}
    for _ in range(4):
        wide = dict.fromkeys(range(1000), wide)
    with pytest.raises(InputError, match="expected tensors, directly"):
        containers.unwrapped({"model": wide, "net": wide})


def test_what_lies_beside_the_weights_is_counted(state, tmp_path):
    found = opened(tmp_path, CONTAINERS["Lightning"][0](state))
    beside = ("callbacks", "lr_schedulers", "hyper_parameters", "optimizer_states", "criterion.weight")
    assert sorted(found.dropped) == sorted(beside)
    assert set(opened(tmp_path, CONTAINERS["AveragedModel"][0](state)).dropped) == {"n_averaged"}


def test_pick_takes_another_state_dict(state, tmp_path):
    average = {key: tensor(x.flat.reshape(x.shape) + 1) for key, x in state.items()}
    content = {"state_dict": state, "state_dict_ema": under("module.", average), "ema": {"shadow": average}}
    raw, ema = opened(tmp_path, content), opened(tmp_path, content, pick="state_dict_ema")
    nested = opened(tmp_path, content, pick="ema/shadow")
    assert raw.unwrapped == ("state_dict",) and set(raw.dropped) == {"state_dict_ema", "ema"}
    assert ema.unwrapped == ("state_dict_ema", "module.") and nested.unwrapped == ("ema", "shadow")
    for key in state:
        np.testing.assert_array_equal(ema[key], raw[key] + 1)
        np.testing.assert_array_equal(nested[key], raw[key] + 1)
    with pytest.raises(InputError, match=r"pick='state_dict_emma': there is no 'state_dict_emma'; nearest: 'state_di"):
        opened(tmp_path, content, pick="state_dict_emma")
    with pytest.raises(InputError, match=r"2 state dicts \(one, two\); set config.init_options.pick to the one"):
        opened(tmp_path, {"one": state, "two": state})
    save_file({"w": np.ones(1, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="pick='w' is for PyTorch archives; remove it"):
        read(tmp_path / "x.safetensors", pick="w")


def test_prefix_takes_what_follows_it(state, tmp_path):
    content = {"state_dict": {**under("module.detector.body.", state), "module.rpn.weight": tensor([1.0])}}
    for prefix in ("detector.body.", "detector.body", "module.detector.body."):
        found = opened(tmp_path, content, prefix=prefix)
        assert set(found) == set(state) and found.unwrapped == ("state_dict", "module.", "detector.body.")
        assert found.dropped == ("rpn.weight",)
    with pytest.raises(InputError, match="keys begin with 'detector.body.'; set config.init_options.prefix to the one"):
        opened(tmp_path, content)
    two = {**under("student.", state), **under("teacher.", state)}
    with pytest.raises(InputError, match="the keys begin with 'student.', 'teacher.'; set config.init_options.prefix"):
        opened(tmp_path, two)
    assert set(opened(tmp_path, two, prefix="teacher")) == set(state)
    with pytest.raises(InputError, match="no key begins with config.init_options.prefix='techer.'; nearest: 'teacher"):
        opened(tmp_path, two, prefix="techer")


def test_another_architecture_is_not_stripped_into_one_that_is_read(tmp_path):
    entries = {"embeddings.word_embeddings.weight": ("bert.",)}
    keys = {"roberta.embeddings.word_embeddings.weight", "roberta.encoder.layer.0.output.dense.bias"}
    assert containers.prefix_of(keys, entries) == "" and "'roberta.'" in containers.hint(keys, entries)
    for prefix in ("", "model."):
        bert = {f"{prefix}bert.embeddings.word_embeddings.weight", f"{prefix}classifier.weight"}
        assert containers.prefix_of(bert, entries) == prefix
    assert containers.prefix_of({"bert.embeddings.word_embeddings.weight"}, entries) == ""
    assert containers.hint({"bert.embeddings.word_embeddings.weight"}, entries) == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": CALLBACK, "epoch": 1}, r"found model, epoch \(of class pytorch_lightning.callbacks.ModelCheckpoint"),
        (CALLBACK, "a pickle with code in it, refused: global pytorch_lightning.callbacks.ModelCheckpoint; save it ag"),
        (
            {"weights": {"a": np.ones(2)}},
            "expected tensors, directly or under state_dict, .*; save it again with torch.save",
        ),
        (
            {"x": {"y": {"a": tensor([1.0])}}},
            "expected tensors, directly .*; found x; set config.init_options.pick to their keys",
        ),
    ],
)
def test_objects_in_place_of_weights_are_named(content, message, tmp_path):
    (tmp_path / "x.pth").write_bytes(new_archive(content))
    with pytest.raises(InputError, match=message):
        read(tmp_path / "x.pth")


def test_a_run_starts_from_what_its_options_name_and_its_ledger_says_so(tmp_path):
    """Bitwise where the bare file leads; the run is another, and known as before where nothing is set."""
    checkpoint(tmp_path / "plain", "resnet", RESNET)
    tensors = {key: tensor(x) for key, x in weights(tmp_path / "plain").items()}
    (tmp_path / "held").mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / "held" / name).write_bytes((tmp_path / "plain" / name).read_bytes())
    content = {"raw": {"w": tensor([1.0])}, "ema": under("student.body.", tensors), "args": argparse.Namespace()}
    (tmp_path / "held" / "pytorch_model.bin").write_bytes(new_archive(content))
    plain = preflight(config_of(tmp_path / "plain"))
    given = config_of(tmp_path / "held")
    given.init_options = dict(pick="ema", prefix="student.body.")
    held = preflight(given)
    expected, found = (lineage.begin(ready, epath.Path("unused")) for ready in (plain, held))
    np.testing.assert_array_equal(
        found.params["stem"]["conv"]["kernel"], expected.params["stem"]["conv"]["kernel"], strict=True
    )
    assert found.to_dict()["unwrapped"] == ["ema", "student.body."] and found.to_dict()["dropped"] == ["raw", "args"]
    assert "read from ema student.body. (config.init_options takes another)" in found.table()
    assert "2 entries of the file beside the weights: raw, args" in found.table()
    assert "unwrapped" not in expected.to_dict() and "read from" not in expected.table()
    assert held.experiment.to_dict()["init_options"] == {"pick": "ema", "prefix": "student.body."}
    assert "init_options" not in plain.experiment.to_dict()
    changed = {name for name in held.experiment.identity() if name not in plain.experiment.identity()}
    assert changed == {"init_options.pick", "init_options.prefix"}

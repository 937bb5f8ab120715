"""sentence-transformers folders: the pooling, the layers behind it, where the encoder lies, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from safetensors.numpy import save_file

from jaxfer.errors import InputError
from jaxfer.pretrained import foreign, located, sentence
from jaxfer.pretrained.hub import find
from tests.experiments import TOKENIZER
from tests.models.tiny import TINY
from tests.pretrained.checkpoints import checkpoint
from tests.pretrained.torch_archives import new_archive, tensor

LAYER = {"in_features": 12, "out_features": 4, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def listed(folder: Path, *modules: tuple[str, str]) -> None:
    """modules.json: (path, kind) of each."""
    kinds = [{"idx": i, "name": str(i), "path": path, "type": f"x.{kind}"} for i, (path, kind) in enumerate(modules)]
    write(folder / "modules.json", kinds)


@pytest.fixture
def folder(tmp_path):
    """A BERT with a pooler and its tokenizer."""
    shutil.copytree(TOKENIZER, tmp_path / "model")
    options = {name: value for name, value in TINY["bert_pooler"][1].items() if name != "outputs"}
    checkpoint(tmp_path / "model", "bert", options)
    return tmp_path / "model"


def options(folder: Path) -> dict[str, object]:
    return dict(foreign.opened(str(folder), "auto", {}).options)


@pytest.mark.parametrize(
    "mode, flag",
    [
        ("cls", "cls_token"),
        ("max", "max_tokens"),
        ("mean", "mean_tokens"),
        ("mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
        ("weightedmean", "weightedmean_tokens"),
        ("lasttoken", "lasttoken"),
    ],
)
def test_the_stated_pooling_is_the_models(folder, mode, flag):
    assert options(folder)["pool"] == "pooler"
    flag = f"pooling_mode_{flag}"
    for stated in ({"pooling_mode": mode}, {"pooling_mode": [mode]}, {"pooling_mode_mean_tokens": False, flag: True}):
        write(folder / "1_Pooling" / "config.json", stated)
        assert options(folder)["pool"] == mode


@pytest.mark.parametrize(
    "stated, found",
    [
        ({"pooling_mode": "median"}, "['median']"),
        ({"pooling_mode": 3}, "3"),
        ({"pooling_mode": ["cls", "pooler"]}, "['cls', 'pooler']"),
        ({"pooling_mode": []}, "[]"),
    ],
)
def test_a_pooling_that_is_not_read_is_refused(folder, stated, found):
    write(folder / "1_Pooling" / "config.json", stated)
    with pytest.raises(InputError) as error:
        options(folder)
    assert "expected a pooling_mode of cls, max, mean" in str(error.value)
    assert str(error.value).endswith(f"found {found}")


def test_several_poolings_stand_side_by_side(folder):
    write(folder / "1_Pooling" / "config.json", {"pooling_mode": ["mean", "cls"]})
    assert options(folder)["pool"] == "mean+cls"
    write(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True})
    assert options(folder)["pool"] == "cls+mean"  # the order in which the old files are read


def test_the_encoder_in_a_folder_of_its_own(folder):
    """As the first versions laid it out: the pooling lies beside the encoder's folder, or is listed there."""
    root = folder.parent / "old"
    shutil.copytree(folder, root / "0_Transformer")
    write(root / "1_Pooling" / "config.json", {"pooling_mode_max_tokens": True})
    assert options(root / "0_Transformer")["pool"] == "max"
    listed(root, ("0_Transformer", "Transformer"), ("1_Pooling", "Pooling"))
    assert options(root) == options(root / "0_Transformer") and options(root)["pool"] == "max"
    write(root / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})  # and a change of it is seen
    assert options(root)["pool"] == "cls"


def test_a_change_of_any_of_its_files_is_seen(folder):
    """The files whose times tell that what is kept of a checkpoint is still it."""
    write(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    write(folder / "2_Dense" / "config.json", LAYER)
    listed(folder, ("", "Transformer"), ("1_Pooling", "Pooling"))
    names = {str(Path(file).relative_to(folder)) for file in sentence.files(epath.Path(folder))}
    assert names == {"modules.json", "1_Pooling/config.json", "2_Dense/config.json"}


@pytest.mark.parametrize("archive", [False, True])
def test_a_dense_layer_behind_the_pooling_is_loaded(folder, archive):
    tensors = {"linear.weight": np.arange(48, dtype=np.float32).reshape(4, 12), "linear.bias": np.ones(4, np.float32)}
    write(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    write(folder / "2_Dense" / "config.json", LAYER)
    if archive:
        content = new_archive({key: tensor(value) for key, value in tensors.items()})
        (folder / "2_Dense" / "pytorch_model.bin").write_bytes(content)
    else:
        save_file(tensors, folder / "2_Dense" / "model.safetensors")
    before = find(str(folder))
    listed(folder, ("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize"))
    found = foreign.opened(str(folder), "auto", {})
    stated = {name: value for name, value in found.options.items() if name.startswith("projection")}
    assert stated == {"projection": 4, "projection_activation": "tanh", "projection_bias": True}
    weights = located.weights(found.files)
    np.testing.assert_array_equal(weights["dense.linear.weight"], tensors["linear.weight"])
    assert weights.moved["dense.linear.bias"] == "2_Dense.linear.bias"
    assert before.sha256 != found.files.sha256


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(activation_function="torch.nn.modules.activation.Mish"), "expected an activation_function of Identity, "),
        (dict(use_residual=True), "no use_residual, found 'Tanh' and use_residual=True"),
        (dict(out_features="4"), "expected out_features > 0 and bias true or false, found '4' and True"),
    ],
)
def test_a_dense_layer_that_is_not_read(folder, change, message):
    write(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    write(folder / "2_Dense" / "config.json", {**LAYER, **change})
    save_file({"linear.weight": np.ones((4, 12), np.float32)}, folder / "2_Dense" / "model.safetensors")
    listed(folder, ("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"))
    with pytest.raises(InputError) as error:
        options(folder)
    assert message in str(error.value)


def test_modules_that_no_port_has_are_named(folder):
    listed(folder, ("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"), ("3_Dense", "Dense"))
    with pytest.raises(InputError, match="Transformer, Pooling, Normalize, Dense; jaxfer reads a Transformer"):
        options(folder)
    listed(folder, ("", "Transformer"), ("1_LogitScore", "LogitScore"))  # a cross-encoder: a classifier of transformers
    assert options(folder)["pool"] == "pooler"
    listed(folder, ("", "Transformer"), ("../1_Pooling", "Pooling"))
    with pytest.raises(InputError, match="expected modules in its own folder, found '../1_Pooling'"):
        options(folder)
    listed(folder, ("", "Transformer"), ("1_Pooling", "Pooling"))  # which is not there
    with pytest.raises(InputError, match="1_Pooling/config.json: not readable as JSON"):
        options(folder)
    write(folder / "modules.json", {"0": "Transformer"})
    with pytest.raises(InputError, match="modules.json: expected a list of modules, each with a path and a type"):
        options(folder)

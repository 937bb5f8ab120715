"""Tiny checkpoints as other people would have saved them, made by our own layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath
from ml_collections import ConfigDict

import jaxfer.config
from jaxfer.models.port import Port
from jaxfer.pretrained import starting
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.layout import Layout, store
from jaxfer.registry import MODELS
from jaxfer.rules import flatten
from jaxfer.training import lineage
from jaxfer.training.preflight import preflight
from tests.experiments import TOKENIZER, tiny_config
from tests.models.tiny import TINY, draw

RESNET = dict(stage_sizes=(1, 1), width=4, image=(16, 12, 3), mean=(0.5, 0.25, 0.125), std=(0.5, 0.25, 1.0))
VIT = dict(patch=4, width=12, layers=2, heads=3, mlp_width=20, image=(8, 12, 3), epsilon=1e-12)
MOBILENET = dict(depth_multiplier=0.1, min_depth=4, image=(16, 16, 3))
CIFAR = dict(stage_sizes=(1, 1), width=4, stem="cifar", shortcut="padding", image=(8, 8, 3))
CLASSES = ("class_0", "class_1", "class_2")  # the names that the synthetic source gives three


def checkpoint(
    folder: Path, family: str, options: dict[str, Any], *, layout: str = "hf", labels: tuple[str, ...] = CLASSES
) -> tuple[Port, Any, Any]:
    """Writes one with random weights; returns (port, params, model_state)."""
    port = MODELS.make(family, outputs=len(labels) or 1, **options)
    params, state = draw(port)
    save(folder, port, params, state, by_family(family, layout), labels, options)
    return port, params, state


def save(
    folder: Path, port: Port, params: Any, state: Any, layout: Layout, labels: Any = (), options: Any = None
) -> None:
    """Writes a model as its layout says."""
    tensors = {key: np.array(value, order="C") for key, value in store(params, state, layout, port).items()}
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(layout.config(port, options or {}, labels)))
    (folder / "preprocessor_config.json").write_text(json.dumps(layout.preprocessor(port)))


def config_of(init: Path | str, image: tuple[int, int, int] = (16, 12, 3), **fields: Any) -> ConfigDict:
    """A short run from a checkpoint on 48 synthetic images of three classes."""
    config = jaxfer.config.base()
    config.model = dict(name="auto", **fields.pop("model", {}))
    config.data = dict(source="synthetic", image=image, classes_count=3, examples=48)
    config.update(init=str(init), batch_size=8, steps=1, eval_every=0, save_every=0, schedule="constant")
    for name, value in fields.items():
        config[name] = value
    return config


def text_config(folder: Path, pool: str = "pooler", **fields: Any) -> ConfigDict:
    """A step of a probe on phrases, from a tiny BERT that is written to `folder` with its tokenizer."""
    options = {name: value for name, value in TINY["bert_pooler"][1].items() if name != "outputs"}
    shutil.copytree(TOKENIZER, folder)
    checkpoint(folder, "bert", options, labels=("bad", "good", "plain"))
    fields = {"steps": 1, "differs": ("pool",), "method": "probe", **fields}
    config = tiny_config("bert_pooler", init=str(folder), **fields)
    config.model = dict(name="auto", pool=pool, max_length=7)
    return config


def weights(folder: Path) -> dict[str, np.ndarray]:
    """{key: tensor} of a folder's model.safetensors."""
    return safetensors.numpy.load_file(folder / "model.safetensors")


def begin(config: ConfigDict) -> starting.Start:
    """Where a run would start."""
    return lineage.begin(preflight(config), epath.Path("unused"))


def back(folder: Path, image: tuple[int, int, int]) -> starting.Start:
    """Where a run from an export would start."""
    return begin(config_of(folder, image))


def assert_same(found: Any, expected: Any) -> None:
    """Two trees of parameters, leaf by leaf and bit by bit."""
    found, expected = flatten(found), flatten(expected)
    assert found.keys() == expected.keys()
    for path in expected:
        np.testing.assert_array_equal(found[path], expected[path], err_msg=path)


def edit(path: Path, **changed: Any) -> None:
    """Changes fields of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **changed}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))

"""Every field of every JSON file of a checkpoint set to values of other types: it is read, or one line says why not."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxfer.errors import InputError
from jaxfer.pretrained import foreign
from jaxfer.registry import MODELS
from tests.experiments import TOKENIZER
from tests.models.tiny import TINY
from tests.pretrained.checkpoints import CIFAR, MOBILENET, RESNET, VIT, checkpoint

VALUES = (None, True, [], {}, "x", -1, 0, 1e308, [1, 2], {"a": 1})
DELETED = object()
QUERY = "base_model.model.vit.encoder.layer.0.attention.attention.query"
MARKER = {"format": "hf", "task": "classification", "problem_type": None, "labels": ["a", "b", "c"], "max_length": 7}
ADAPTER = {
    "peft_type": "LORA",
    "base_model_name_or_path": "../vit",
    "revision": None,
    "task_type": "SEQ_CLS",
    "r": 2,
    "lora_alpha": 3,
    "rank_pattern": {"query": 2},
    "alpha_pattern": {"query": 4},
    "use_rslora": True,
    "modules_to_save": ["classifier"],
    "bias": "none",
    "init_lora_weights": True,
    "target_modules": ["query"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny checkpoint of each family, and an adapter with a head of its own."""
    folder = tmp_path_factory.mktemp("wrong_json")
    shutil.copytree(TOKENIZER, folder / "bert")
    bert = {name: value for name, value in TINY["bert_pooler"][1].items() if name != "outputs"}
    checkpoint(folder / "bert", "bert", bert)
    checkpoint(folder / "resnet", "resnet", RESNET)
    checkpoint(folder / "cifar", "resnet", CIFAR, layout="torchvision")
    checkpoint(folder / "mobilenet_v1", "mobilenet_v1", MOBILENET)
    checkpoint(folder / "vit", "vit", VIT)
    (folder / "vit" / "jaxfer.json").write_text(json.dumps(MARKER))
    (folder / "lora").mkdir()
    tensors = {f"{QUERY}.lora_A.weight": np.ones((2, 12)), f"{QUERY}.lora_B.weight": np.ones((12, 2))}
    tensors |= {"base_model.model.classifier.weight": np.ones((3, 12)), "base_model.model.classifier.bias": np.ones(3)}
    save_file({key: x.astype(np.float32) for key, x in tensors.items()}, folder / "lora" / "adapter_model.safetensors")
    (folder / "lora" / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (folder / "lora" / "jaxfer.json").write_text(json.dumps(MARKER))
    return folder


def places(content, path=()):
    """The path of every field and item, outermost first."""
    found = [path] if path else []
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items)[:1] if path else items:
        found += places(value, (*path, key))
    return found


def mutated(content, path, value):
    content = copy.deepcopy(content)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    if value is DELETED:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("name", "file"),
    [
        *[(name, "config.json") for name in ("bert", "resnet", "cifar", "mobilenet_v1", "vit")],
        *[(name, "preprocessor_config.json") for name in ("resnet", "mobilenet_v1", "vit")],
        ("vit", "jaxfer.json"),
        ("lora", "adapter_config.json"),
        ("lora", "jaxfer.json"),
    ],
)
def test_a_wrong_value_is_read_or_refused_in_a_line(name, file, folders, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = folders / name / file
    text = path.read_text()
    content = json.loads(text)
    variants = [mutated(content, place, value) for place in places(content) for value in (*VALUES, DELETED)]
    try:
        for variant in (*variants, *VALUES):
            path.write_text(json.dumps(variant))
            try:
                found = foreign.opened(str(folders / name), "auto", {})
                MODELS.make(found.layout.family, outputs=max(found.outputs, 1), **found.options)
                hash(found.problem_type)
            except InputError as error:
                assert "\n" not in str(error), variant
            except Exception as error:
                raise AssertionError(f"{file}: {variant}") from error
    finally:
        path.write_text(text)

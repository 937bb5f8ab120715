"""Logits and every unit's output against transformers' PyTorch models, from files that `golden/make.py` wrote."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.pretrained.families import by_family, by_model_type
from jaxfer.pretrained.layout import convert
from jaxfer.registry import MODELS
from jaxfer.rules import flatten

FILES = sorted(file for file in (Path(__file__).parent / "golden").glob("*.npz") if not file.stem.startswith("timm_"))
FAMILIES = [file for file in FILES if file.stem != "bert"]  # that one has a test of its own
BOUND = 1e-4  # x max(1, max |reference|)


def test_the_files_are_there_and_small():
    names = ["deit", "mobilenet_v1", "resnet", "resnet_basic", "resnet_cifar", "vit"]
    assert {file.stem for file in FILES} >= set(names)
    assert all(file.stat().st_size < 64_000 for file in FILES)


def deep_tuple(value):
    return tuple(map(deep_tuple, value)) if isinstance(value, list) else value


def unpack(vector, shapes):
    """{name: array} of arrays laid end to end."""
    parts = np.split(vector.astype(np.float32), np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


# `.ci/run` asks these here, and all families of PyTorch itself.
FEW = ("convnext_odd", "decoder_qwen3", "mobilenet_v1", "resnet_basic", "roberta_odd", "swin_odd", "timm_vit", "vit")


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, id=file.stem, marks=() if file.stem in FEW else pytest.mark.rest) for file in FAMILIES],
)
def test_every_unit_equals_pytorch(file):
    golden = np.load(file)
    index = json.loads(golden["index"].tobytes())
    batch = {"image": golden["x"].astype(np.float32)} if "x" in golden else {}
    batch |= {name: golden[name].astype(np.int32) for name in golden.files if name.endswith(("_ids", "_mask"))}
    floats = ("audio", "series", "numbers", "missing")
    batch |= {name: golden[name].astype(np.float32) for name in golden.files if name in floats}
    batch |= {name: golden[name].astype(np.int32) for name in golden.files if name == "categories"}
    config = index["config"]
    theirs, expected = (unpack(golden[what], index[what]) for what in ("weights", "expected"))

    family = index.get("layout", ("resnet", "torchvision"))
    layout = by_model_type(config["model_type"]) if config and "layout" not in index else by_family(*family)
    options = {
        **layout.options(config, {}, {name: value.shape for name, value in theirs.items()}),
        **({"image": tuple(batch["image"].shape[1:])} if "image" in batch else {}),
        **{name: deep_tuple(x) for name, x in index.get("options", {}).items()},
    }
    port = MODELS.make(layout.family, outputs=expected["logits"].shape[1], **options)
    params, state = jax.eval_shape(port.init, jax.random.key(0), batch)
    conversion = convert(theirs, layout, port, flatten({"params": params, **state}))
    params, state = jax.tree.map(jnp.asarray, (conversion.params, conversion.model_state))

    first, hidden = port.inputs[0], batch[port.inputs[0]]
    for unit in port.units:
        run = jax.jit(functools.partial(port.apply, begin=unit, end=unit))
        hidden, _ = run(params, state, {**batch, first: hidden})
        reference = expected.pop("logits" if unit == port.units[-1] else unit, None)
        if reference is not None:
            found = np.asarray(hidden["decoder"] if isinstance(hidden, dict) else hidden)
            padded = (
                "attention_mask" in batch and found.ndim == 3 and found.shape[1] == batch["attention_mask"].shape[1]
            )
            if padded:  # what is at padding is of no account
                found, reference = (x * batch["attention_mask"][..., None] for x in (found, reference))
            top = np.abs(reference).max()
            assert 0.1 <= top <= 10, unit
            np.testing.assert_allclose(found, reference, rtol=0, atol=BOUND * max(1, top), err_msg=unit)
    assert not expected, f"no unit of ours answers {', '.join(expected)}"

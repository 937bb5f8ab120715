"""Where a method begins: at the source model to the last bit, within rounding, or as near as docs/methods.md says."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxfer.step import make_eval_step
from tests.experiments import backbone, batches, tiny_stage
from tests.methods import starts

BOTH, TRANSFORMER, CONVOLUTION = ("vit_cls", "resnet_basic"), ("vit_cls",), ("resnet_basic",)
# (method, options, models) whose first logits are the source model's, bit for bit
EXACT = [
    ("lora", {}, (*BOTH, "resnet_bottleneck", "resnet_grouped", "vit_mean")),
    ("lora", {"scaling": "rank_stabilised"}, TRANSFORMER),
    ("dora", {"rank": 2, "alpha": 6.0}, BOTH),
    ("vera", {"rank": 5}, BOTH),
    ("loha", {"rank": 2}, BOTH),
    ("lokr", {"rank": 2}, BOTH),
    ("oft", {"block": 4}, BOTH),
    ("oft", {"block": 4, "neumann": 5}, BOTH),
    ("ia3", {}, BOTH),
    ("bitfit", {}, BOTH),
    ("norm_tuning", {}, BOTH),
    ("film", {}, CONVOLUTION),
    ("ssf", {"std": 0.0}, BOTH),
    ("adapter", {"kind": "parallel"}, TRANSFORMER),
    ("adapter", {"kind": "adaptformer"}, TRANSFORMER),
    ("adapter", {"kind": "houlsby", "start": "lora"}, TRANSFORMER),
]


@functools.cache
def plain(case):
    """The source model's logits, compiled once for all methods."""
    stage = tiny_stage(case)
    (params, model_state), (batch,), port = backbone(stage), batches(stage, 1), stage.spec.port
    return jax.jit(lambda *read: port.apply(*read)[0])(params, model_state, batch)


def first(method, case, options):
    """Logits of the method's first State, by the compiled evaluation step."""
    stage = tiny_stage(case, method=method, options=options)
    (params, model_state), (batch,) = backbone(stage), batches(stage, 1)
    state = stage.enter(params, model_state, 0)
    return jax.jit(make_eval_step(stage.spec))(state.params, model_state, state.extra, batch)["collected"]


@pytest.mark.parametrize(
    "method,options,case", [(method, options, case) for method, options, cases in EXACT for case in cases]
)
def test_the_first_logits_are_the_source_models(method, options, case):
    np.testing.assert_array_equal(first(method, case, options), plain(case))


@pytest.mark.parametrize("start,most", [("pissa", 1e-6), ("olora", 4e-6)])
@pytest.mark.parametrize("case", BOTH)
def test_starts_from_kernels_round(start, most, case):
    """W - s B A is rounded, and the product with B A in two steps, as in peft."""
    apart = np.abs(first("lora", case, {"start": start, "rank": 2}) - plain(case)).max()
    assert apart <= most * np.abs(plain(case)).max()


def test_the_documented_distances():
    """The table of docs/methods.md: its numbers, and their order."""
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    told = {
        name: float(mean) for name, mean in re.findall(r"^\| `(.+)` \| ([\d.]+) \| [\d.]+ to [\d.]+ \|$", text, re.M)
    }
    assert told.keys() == starts.STARTS.keys() and list(told.values()) == sorted(told.values())
    for name, mean in told.items():
        assert np.mean([starts.change(name, seed) for seed in starts.SEEDS]) == pytest.approx(mean, rel=0.06), name

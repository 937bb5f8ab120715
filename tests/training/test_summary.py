"""`show`: numbers by hand, and nothing allocated."""

from __future__ import annotations

import jax
import pytest

import jaxfer
from jaxfer.config.experiment import ParallelConfig
from jaxfer.parallel.placement import placement
from jaxfer.terminal import Page
from jaxfer.training.summary import StageSummary, summary
from tests.experiments import tiny_config, tiny_stage


def test_rows_and_totals_by_hand():
    fields = dict(lr=0.01, layer_decay=0.5, weight_decay=0.2, freeze_units=1, lr_rules=(("head/norm/.*", 3.0),))
    (stage,) = jaxfer.show(tiny_config("vit_cls", method="full", **fields))
    rows = {line.split()[0]: line.split()[1:] for line in str(stage).splitlines() if "/" in line.split()[0]}
    assert rows["head/out/kernel"] == ["12x3", "head", "0.01", "0.2"]
    assert rows["head/norm/scale"] == ["12", "backbone", "0.03", "0"]
    assert rows["block_1/attn/query/kernel"] == ["12x3x4", "backbone", "0.005", "0.2"]
    assert rows["block_0/mlp/fc1/bias"] == ["20", "backbone", "0.0025", "0"]
    assert rows["stem/pos"] == ["1x7x12", "FROZEN", "-", "-"]
    block = 2 * 24 + 4 * (12 * 12 + 12) + 12 * 20 + 20 + 20 * 12 + 12
    stem, head = 3 * 3 * 3 * 12 + 12 + 12 + 7 * 12, 24 + 12 * 3 + 3
    assert stage.params_total == stem + 2 * block + head
    assert stage.params_trainable == 2 * block + head
    assert stage.optimizer_bytes == 2 * 4 * stage.params_trainable + 4 * 2  # two moments, a count for each group


@pytest.mark.parametrize(
    "method,options,line",
    [
        ("lora", {"rank": 4, "alpha": 6.0}, "scale of the product: 1.5, lr x scale of lora 0.015"),
        (
            "lora",
            {"rank": 4, "alpha": 6.0, "scaling": "rank_stabilised", "b_rate": 16.0},
            "scale of the product: 3, lr x scale of lora 0.03, lr x scale of lora_b 0.48",
        ),
        ("dora", {"rank": 4, "alpha": 6.0}, "scale of the product: 1.5, lr x scale of dora 0.015"),
        ("loha", {"rank": 4, "alpha": 6.0}, "scale of the product: 1.5, lr x scale of loha 0.015"),
        ("lokr", {"rank": 4, "alpha": 6.0}, "scale of the product: 1.5, lr x scale of lokr 0.015"),
    ],
)
def test_the_scale_of_a_low_rank_product(method, options, line):
    """alpha / rank, or alpha / sqrt(rank), and the rate times it: what two settings of alpha and lr have in common."""
    stage = tiny_stage("vit_cls", method=method, options=options, lr=0.01)
    numbers = dict(params_trainable=0, params_total=0, optimizer_bytes=0, state_bytes=0, step_flops=0.0)
    where = placement(ParallelConfig(devices=1))
    shown = StageSummary(stage=stage, where=where, forward_flops=0.0, **numbers).text().splitlines()
    assert line in shown and not tiny_stage("vit_cls", method="probe").spec.method.factors


def test_forward_flops_by_hand():
    """ViT-B/16: 2 x inputs x outputs x tokens for each matrix product; norms, softmax and GELU are the few % beside."""
    stage = tiny_stage("vit_cls", model=dict(name="vit", image=(224, 224, 3)), method="probe")
    tokens, width, mlp, layers, examples = 197, 768, 3072, 12, 8
    block = 2 * tokens * (4 * width * width + 2 * width * mlp) + 2 * 2 * tokens * tokens * width
    products = examples * (2 * 196 * 768 * width + layers * block + 2 * width * 3)
    assert products <= summary(stage, placement(ParallelConfig(devices=1))).forward_flops <= 1.05 * products


@pytest.mark.system
def test_a_large_model_is_shown_without_allocating_it():
    config = tiny_config("vit_cls", model=dict(name="vit", image=(224, 224, 3), layers=24, width=1024, heads=16,
                                               mlp_width=4096), method="lora")  # fmt: skip
    before = sum(a.nbytes for a in jax.live_arrays())
    (stage,) = jaxfer.show(config)
    assert sum(a.nbytes for a in jax.live_arrays()) - before < 1e6
    assert stage.params_total > 300e6


@pytest.mark.parametrize("method", ["full", "probe"])
def test_every_stage_is_shown(method):
    config = tiny_config("resnet_basic", stages=("one", "two"))
    config.stage.one = dict(method="probe")
    config.stage.two = dict(method=method)
    assert [stage.stage.config.method for stage in jaxfer.show(config)] == ["probe", method]


USUAL = (
    "stage 'train': method probe, 4 steps of 8 examples\n"
    "parameter              shape      group   lr    weight decay\n",
    "\nhead/out/kernel        12x3       head    0.01  0\nstem/conv/kernel       3x3x3x6    FROZEN  -     -\n",
    "\nnote: config.freeze: 'stem/.*' claims only what method 'probe' freezes anyway\n"
    "features: computed in each step: JAXFER_CACHE is off\n"
    "trainable 39 of 5,517 parameters · optimizer 316 bytes ·\n  step ",
)
NARROW = (
    "stage 'train': method probe, 4 steps of\n  8 examples\nblock_0/conv_1/kernel\n"
    "  shape: 3x3x6x6  group: FROZEN  lr: -\n",
    "\nhead/out/kernel\n  shape: 12x3  group: head  lr: 0.01\n  weight decay: 0\nstem/conv/kernel\n",
    "\nnote: config.freeze: 'stem/.*' claims\n  only what method 'probe' freezes\n  anyway\n"
    "features: computed in each step:\n  JAXFER_CACHE is off\n"
    "trainable 39 of 5,517 parameters ·\n  optimizer 316 bytes ·\n  step ",
)


@pytest.mark.parametrize(("width", "parts"), [(80, USUAL), (40, NARROW)])
def test_on_a_terminal_the_totals_come_last(width, parts):
    (stage,) = jaxfer.show(tiny_config("resnet_basic", method="probe", freeze=("stem/.*",)))
    shown = stage.text(Page(width))
    places = [shown.index(part) for part in parts]
    assert places == sorted(places) and places[0] == 0
    assert max(map(len, shown.splitlines())) <= width

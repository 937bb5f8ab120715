"""`jaxfer plan` by the TPU's own compiler (libtpu, the extra `tpu`): small programs for v5e:2x2, numbers by hand."""

from __future__ import annotations

import math

import jax
import pytest

import jaxfer
from jaxfer import forecast
from jaxfer.config.experiment import ParallelConfig
from jaxfer.errors import InputError
from jaxfer.forecast import plan
from jaxfer.forecast.chips import CHIPS
from jaxfer.forecast.result import TooLarge
from jaxfer.parallel.placement import placement
from jaxfer.training import programs

pytestmark = pytest.mark.xdist_group("plan")  # in one worker, which makes `whole` once
DIGITS = "configs/digits.py:tiny,full"
WIDTH, LAYERS, MLP, PATCH, TOKENS, BATCH = 128, 3, 512, 16, 17, 4096
VIT = {
    "model.name": "vit",
    **{f"model.{name}": value for name, value in dict(width=WIDTH, layers=LAYERS, heads=2, patch=PATCH).items()},
    **{"model.mlp_width": MLP, "model.image": (64, 64, 3), "data.image": (64, 64, 3), "batch_size": BATCH},
}


def planned(name, overrides=None, topology="v5e:2x2"):
    (stage,) = plan(jaxfer.load(name, overrides or {}), topology).stages
    return stage


def relative(overrides):
    """For comparisons between plans: with fewer passes of the compiler, in a quarter of its time."""
    jax.config.update("jax_optimization_level", "O1")
    try:
        return planned(DIGITS, overrides)
    finally:
        jax.config.update("jax_optimization_level", "UNKNOWN")


def compiled_for(overrides):
    """The step alone on one chip, without the remedies, each of which would be compiled too."""
    devices = forecast._slice("v5e:1x1")[1]
    ready = forecast._ready(jaxfer.load(DIGITS, overrides), devices, None)
    return forecast._compiled(ready.stages[0], ready.where, devices)


@pytest.fixture(scope="module")
def whole():
    """The ViT with whole parameters on every chip."""
    return relative(VIT)


def test_a_small_network_fits_and_is_updated_in_place():
    """A ring of 4 sends 2 * 3/4 of the gradients, as large as a third of the State; norms' sums are a little more."""
    stage = planned(DIGITS)
    assert stage.compiled.total < CHIPS["v5e"].memory
    assert stage.compiled.alias >= stage.compiled.state
    gradients = stage.compiled.state / 3
    assert stage.compiled.collectives == {"all-reduce": pytest.approx(1.5 * gradients, rel=0.03)}


def layer_products() -> int:
    """Multiplications of a layer's forward pass, for one example: projections, attention, the MLP."""
    return 4 * TOKENS * WIDTH**2 + 2 * TOKENS**2 * WIDTH + 2 * TOKENS * WIDTH * MLP


def test_operations_by_hand(whole):
    """Per example and product 2 operations; backward twice the forward, but none to the pixels."""
    layer = layer_products()
    stem = (TOKENS - 1) * PATCH**2 * 3 * WIDTH
    assert whole.flops * 4 == whole.model_flops
    assert whole.model_flops == pytest.approx(2 * BATCH * (3 * LAYERS * layer + 2 * stem), rel=0.05)


@pytest.mark.rest
def test_remat_saves_activations(whole):
    """Without it every layer keeps its activations, with it one at a time and the inputs of all.

    What is computed again on each of 4 chips is a layer but for its last product, which no gradient reads.
    """
    again = relative(VIT | {"remat": (".*",)})
    extra = 2 * BATCH / 4 * LAYERS * (layer_products() - TOKENS * WIDTH * MLP)
    assert again.flops - whole.flops == pytest.approx(extra, rel=0.05)
    assert again.compiled.temporaries < 0.6 * whole.compiled.temporaries


def test_split_parameters_need_no_more_activations(whole):
    """Split over 4 chips the State is a quarter; left to itself, XLA would hold the activations of all examples."""
    split = relative(VIT | {"parallel.mode": "fsdp"})
    assert split.compiled.state < 0.3 * whole.compiled.state
    assert split.compiled.temporaries <= 1.5 * whole.compiled.temporaries
    sent = split.compiled.collectives
    assert "all-gather" in sent
    assert sent["all-reduce"] == pytest.approx(whole.compiled.collectives["all-reduce"], rel=0.01)  # and not in loops


def test_how_a_split_step_is_compiled_is_the_users_to_say(monkeypatch):
    """Loops are off where parameters are split by `fsdp` alone; LIBTPU_INIT_ARGS has the last word."""
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    devices = forecast._slice("v5e:2x2")[1]

    def options(**axes):
        return programs._options(placement(ParallelConfig(**axes), devices=devices))

    (flag,) = options(mode="fsdp")
    assert options(mode="fsdp") == {flag: "false"}
    assert options() is options(mode="tensor") is options(fsdp=2, tensor=2) is None
    monkeypatch.setenv("LIBTPU_INIT_ARGS", f"--{flag}=true")
    assert options(mode="fsdp") is None


def test_the_compiler_refuses_what_is_too_large():
    """A thousand times the examples of one chip above; what it says of its limit is what CHIPS has."""
    found = compiled_for(VIT | {"batch_size": 2**20})
    assert isinstance(found, TooLarge)
    assert found.limit == CHIPS["v5e"].memory < found.total


@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5p:2x2x1", "v6e:2x2"])
def test_every_kind_of_chip(topology):
    found = plan(jaxfer.load(DIGITS, {}), topology)
    assert found.fits
    assert found.chips == math.prod(int(n) for n in topology.split(":")[1].split("x")) == 4


def test_parts_of_a_slice_are_refused():
    with pytest.raises(InputError, match="leaves 12 of the slice's 16 chips out"):
        planned(DIGITS, {"parallel.devices": 4}, "v5e:4x4")

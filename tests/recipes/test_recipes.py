"""Each recipe's stages by hand, from facts alone."""

from __future__ import annotations

import dataclasses

import pytest

from jaxfer.errors import InputError
from jaxfer.recipe import Facts, of_units, parts
from jaxfer.registry import RECIPES

LEVELS = (("head",), ("block_3",), ("block_2",), ("block_1",), ("block_0",), ("stem",))
FACTS = Facts(
    levels=LEVELS,
    examples=1000,
    classes=5,
    rates={"full": 1e-3, "probe": 1e-2},
    steps=100,
    image=(32, 32),
    method="full",
)


def made(name, options=None, **facts):
    return RECIPES.make(name, dataclasses.replace(FACTS, **facts), **(options or {}))


def test_every_recipe_names_its_source_and_its_reasons():
    assert RECIPES.names() == ("auto", "bit_hyperrule", "discriminative", "gradual", "lp_ft", "surgical")
    for name in RECIPES.names():
        recipe = made(name)
        assert recipe.source and recipe.reasons and all("\n" not in reason for reason in recipe.reasons)


def test_parts_add_up():
    assert parts(100, (1, 1, 1, 2)) == (20, 20, 20, 40)
    assert parts(10, (1, 2)) == (3, 7)
    assert sum(parts(101, (1, 1, 1, 1, 3))) == 101


def test_a_pattern_of_units_matches_what_a_method_adds_too():
    import re

    pattern = of_units(("block_1", "stem"))
    assert all(re.fullmatch(pattern, path) for path in ("block_1/mlp/kernel", "lora/block_1/mlp/a", "stem/bias"))
    assert not any(re.fullmatch(pattern, path) for path in ("block_11/mlp/kernel", "head/out/bias", "block_1"))


def test_lp_ft():
    recipe = made("lp_ft", {"share": 0.25})
    assert recipe.stages == {
        "probe": {"method": "probe", "steps": 25},
        "full": {"method": "full", "steps": 75, "lr": pytest.approx(1e-4)},
    }
    lora = made("lp_ft", {"ratio": 0.5}, method="lora", given={"lr": 0.02})
    assert lora.stages["lora"] == {"method": "lora", "steps": 50, "lr": 0.01}


def test_gradual():
    recipe = made("gradual", {"groups": 3})
    assert list(recipe.stages) == ["unfreeze_1", "unfreeze_2", "unfreeze_3"]
    one, two, three = recipe.stages.values()
    assert [stage["steps"] for stage in (one, two, three)] == [25, 25, 50]
    assert [stage["freeze_units"] for stage in (one, two, three)] == [5, 3, 0]  # the head; two blocks more; all
    assert "lr_rules" not in one and two["lr_rules"] == ((of_units(("block_3", "block_2")), 1 / 2.6),)
    assert three["lr_rules"][1] == (of_units(("block_1", "block_0", "stem")), pytest.approx(1 / 2.6**2))
    assert {stage["schedule"] for stage in recipe.stages.values()} == {"slanted_triangular"}
    assert len(made("gradual", {"groups": 9}).stages) == 6  # no more groups than levels


def test_discriminative_has_a_floor():
    assert made("discriminative").stages == {"train": {"layer_decay": 0.75}}  # 0.75 ** 5 is above 0.01
    stage = made("discriminative", {"decay": 0.5, "floor": 0.1}).stages["train"]
    scales = {pattern: 0.5**depth * scale for (pattern, scale), depth in zip(stage["lr_rules"], (4, 5), strict=True)}
    assert scales == {of_units(("block_0",)): 0.1, of_units(("stem",)): 0.1}  # 0.0625 and 0.03125 without it
    assert made("discriminative", given={"layer_decay": 0.9}).stages["train"]["layer_decay"] == 0.9


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({"shift": "input"}, {"stem", "block_0", "head"}),
        ({"shift": "feature"}, {"block_1", "head"}),
        ({"shift": "output"}, {"block_3", "head"}),
        ({"block": "block_2"}, {"block_2", "head"}),
        ({"block": "block_2", "head": False}, {"block_2"}),
    ],
)
def test_surgical(options, trained):
    frozen = made("surgical", options).stages["train"]["freeze"]
    assert set(frozen) == {of_units((unit,)) for level in LEVELS for unit in level if unit not in trained}


def test_surgical_goes_by_the_largest_gradient_where_it_is_asked():
    measured = made("surgical", {"block": "largest"}, largest_gradient=lambda: "block_2")
    assert measured.stages == made("surgical", {"block": "block_2"}).stages
    assert measured.reasons[0].startswith("block 'block_2' has the largest relative gradient on the first batch: tr")


@pytest.mark.parametrize(("examples", "steps"), [(19_999, 500), (20_000, 10_000), (499_999, 10_000), (500_000, 20_000)])
def test_bit_hyperrule(examples, steps):
    recipe = made("bit_hyperrule", examples=examples)
    stage = recipe.stages["train"]
    assert (stage["steps"], stage["lr"], stage["momentum"], stage["optimizer"]) == (steps, 0.003, 0.9, "sgd")
    assert any("mixup" in reason for reason in recipe.reasons) == (examples >= 20_000)
    assert any("resized to 160 and cropped to 128" in reason for reason in recipe.reasons)


def test_bit_hyperrule_falls_to_a_tenth_after_30_60_and_90_percent():
    import jax.numpy as jnp

    from jaxfer.optim.schedules import schedule

    stage = made("bit_hyperrule").stages["train"]
    hparams = {f"schedule/{name}": jnp.float32(value) for name, value in stage["schedule_options"]}
    hparams |= {"warmup": jnp.float32(0), "total_steps": jnp.float32(500), "min_lr": jnp.float32(0)}
    factors = [
        float(schedule(stage["schedule"], hparams, jnp.int32(step))) for step in (0, 149, 150, 299, 300, 449, 450)
    ]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "facts", "stages", "rate"),
    [
        ({}, dict(examples=40), ["probe"], None),  # 8 a class
        ({}, dict(examples=300), ["probe", "full"], 1e-5),
        ({}, dict(examples=1000), ["probe", "full"], 1e-3 / 30),
        ({}, dict(examples=50_000), ["probe", "full"], 1e-4),
        ({"distance": "near"}, dict(examples=1000), ["probe", "full"], 1e-3 / 90),
        ({"distance": "far"}, dict(examples=1000), ["probe", "full"], 1e-4),
        ({"distance": "far"}, dict(examples=40), ["probe", "full"], 1e-3 / 33),
        ({}, dict(examples=1000, pretrained=False), ["full"], 1e-3),
        ({}, dict(examples=300, given={"optimizer": "sgd"}), ["probe", "full"], 1e-3),
        ({}, dict(examples=300, given={"lr": 0.5}), ["probe", "full"], 0.5),
        ({}, dict(method="lora"), ["lora"], None),
    ],
)
def test_auto(options, facts, stages, rate):
    recipe = made("auto", options, **facts)
    assert list(recipe.stages) == stages
    assert list(recipe.stages.values())[-1].get("lr") == (None if rate is None else pytest.approx(rate))


def test_auto_steps_decay_and_norms():
    assert sum(stage["steps"] for stage in made("auto").stages.values()) == 938  # 30 epochs of 1000 in batches of 32
    assert sum(stage["steps"] for stage in made("auto", given={"steps": 100}).stages.values()) == 100
    deep = made("auto", levels=(*LEVELS, ("first",))).stages["full"]
    assert deep["layer_decay"] == 0.75 and "norms" not in deep
    normed = made("auto", levels=(*LEVELS, ("first",)), batch_norms=True, batch_size=8).stages["full"]
    assert normed["norms"] == ((".*", "eval"),) and "layer_decay" not in normed


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lp_ft", {"share": 1.0}, "share: expected between 0 and 1, found 1.0"),
        ("gradual", {"groups": 1}, "expected groups of at least 2"),
        ("discriminative", {"floor": 0.0}, "floor: expected more than 0 and at most 1, found 0.0"),
        ("surgical", {"block": "blok_1"}, "expected a unit of the model, found 'blok_1'; nearest: 'block_1'"),
        ("surgical", {"shift": "inputs"}, "shift: expected one of input, feature, output, found 'inputs'"),
        ("auto", {"distance": "nearer"}, "distance: expected one of unknown, near, far, found 'nearer'"),
    ],
)
def test_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        made(name, options)

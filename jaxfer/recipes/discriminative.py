"""Discriminative rates: each unit further from the head learns more slowly, but not below a floor."""

from __future__ import annotations

from jaxfer.errors import InputError
from jaxfer.recipe import Facts, Recipe, of_units


def recipe(facts: Facts, *, decay: float = 0.75, floor: float = 0.01) -> Recipe:
    """One stage, `train`, of `config.method`.

    Args:
      facts: of the config.
      decay: a unit's rate as a multiple of the one above; `config.layer_decay` wins.
      floor: the smallest multiple of the head's rate (timm's `layer_decay_min_scale`).
    """
    for name, value in (("decay", decay), ("floor", floor)):
        if not 0 < value <= 1:
            raise InputError(f"config.recipe_options.{name}: expected more than 0 and at most 1, found {value}")
    decay = facts.given.get("layer_decay", decay)
    raised = {depth: floor / decay**depth for depth in range(len(facts.levels)) if 0 < decay**depth < floor}
    rules = tuple((of_units(facts.levels[depth]), scale) for depth, scale in raised.items())
    lowest = max(decay ** (len(facts.levels) - 1), floor)
    return Recipe(
        stages={"train": {"layer_decay": decay, **({"lr_rules": rules} if rules else {})}},
        source="Howard & Ruder, 2018, arXiv:1801.06146; the floor is timm's",
        reasons=(
            f"rates fall by {decay:g} a unit, from 1 at the head to {lowest:.2g} at the input"
            + (f"; {len(rules)} of {len(facts.levels)} levels are at the floor" if rules else ""),
        ),
    )

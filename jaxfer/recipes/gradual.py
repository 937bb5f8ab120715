"""Gradual unfreezing, as of ULMFiT: one group of units after another from the top, lower ones at smaller rates."""

from __future__ import annotations

from jaxfer.errors import InputError
from jaxfer.recipe import Facts, Recipe, of_units, parts


def recipe(facts: Facts, *, groups: int = 4, decay: float = 2.6, last: float = 2.0) -> Recipe:
    """Stages `unfreeze_1`, where the head alone is trained, to `unfreeze_GROUPS`, where everything is.

    Args:
      facts: of the config.
      groups: of units; the head is the first, the others are equal, the upper ones smaller where they can't be.
      decay: a group's rate is the one of the group above, divided by this.
      last: the length of the last stage, as a multiple of each other's.
    """
    if groups < 2 or decay < 1 or last <= 0:
        expected = "expected groups of at least 2, decay of at least 1 and last above 0"
        raise InputError(f"config.recipe_options: {expected}, found {groups}, {decay:g} and {last:g}")
    groups = min(groups, len(facts.levels))
    ends = [1, *(1 + (len(facts.levels) - 1) * (at + 1) // (groups - 1) for at in range(groups - 1))]
    members = [facts.levels[begin:end] for begin, end in zip((0, *ends), ends, strict=False)]
    steps = parts(facts.steps, (*[1.0] * (groups - 1), last))
    stages = {}
    for at, count in enumerate(steps):
        rules = tuple(
            (of_units(unit for level in members[group] for unit in level), decay**-group) for group in range(1, at + 1)
        )
        stages[f"unfreeze_{at + 1}"] = {
            "steps": count,
            "schedule": "slanted_triangular",
            "freeze_units": len(facts.levels) - ends[at],
            **({"lr_rules": rules} if rules else {}),
        }
    sizes = ", ".join(str(sum(map(len, group))) for group in members)
    return Recipe(
        stages=stages,
        source="Howard & Ruder, 2018, arXiv:1801.06146, sections 3.2 and 3.3",
        reasons=(
            f"{groups} groups of {sizes} units from the head down, rates divided by {decay:g} a group",
            "a stage has its own optimizer and its own slanted triangle; the paper's language model is not fine-tuned "
            "here: start from one that was",
        ),
    )

"""Linear probing, then fine-tuning: a trained head keeps the first steps from distorting the features."""

from __future__ import annotations

from jaxfer.errors import InputError
from jaxfer.recipe import Facts, Recipe, parts


def recipe(facts: Facts, *, share: float = 0.5, ratio: float = 0.1) -> Recipe:
    """Stages: `probe`, then one of `config.method`.

    Args:
      facts: of the config.
      share: of the steps, for the probe.
      ratio: the second stage's rate, as a multiple of what it would be without a recipe.
    """
    if not 0 < share < 1:
        raise InputError(f"config.recipe_options.share: expected between 0 and 1, found {share}")
    second = "full" if facts.method == "probe" else facts.method
    steps, rate = parts(facts.steps, (share, 1 - share)), facts.rate(second)
    return Recipe(
        stages={
            "probe": {"method": "probe", "steps": steps[0]},
            second: {"method": second, "steps": steps[1], **({} if rate is None else {"lr": rate * ratio})},
        },
        source="Kumar et al., 2022, arXiv:2202.10054",
        reasons=(
            f"{steps[0]} steps of the head alone, then {steps[1]} of {second} at {ratio:g} times its rate; the paper "
            "chooses the second rate on val",
        ),
    )

"""Surgical fine-tuning: one block is trained, chosen by where the new data differ from the source's."""

from __future__ import annotations

from jaxfer.errors import InputError, nearest
from jaxfer.recipe import Facts, Recipe, chosen, of_units

SHIFTS = ("input", "feature", "output")
LARGEST = "largest"


def recipe(facts: Facts, *, block: str = "", shift: str = "feature", head: bool = True) -> Recipe:
    """One stage, `train`, of `config.method`.

    Args:
      facts: of the config.
      block: the unit that is trained; `largest`: the one whose gradient on the run's first batch is largest relative to
        its parameters, which `jaxfer find-lr` prints of each; empty: `shift` chooses.
      shift: where the data differ: `input` (other images or words of the same things) trains the lowest two levels,
        `feature` the one in the middle, `output` (other labels) the one below the head.
      head: whether the head is trained too; a new one has to be.
    """
    units = [unit for level in facts.levels for unit in level]
    measured = block == LARGEST and LARGEST not in units
    block = facts.largest_gradient() if measured else block
    if block and block not in units:
        raise InputError(
            f"config.recipe_options.block: expected a unit of the model, found {block!r}{nearest(block, units)}"
        )
    body = facts.levels[1:] or facts.levels
    where = {"input": body[-2:], "feature": body[len(body) // 2 :][:1], "output": body[:1]}
    kept = {block} if block else {unit for level in where[chosen(shift, SHIFTS, "shift")] for unit in level}
    why = f"block {block!r} is given" if block else f"a shift of the {shift} level is given"
    if measured:
        why = f"block {block!r} has the largest relative gradient on the first batch"
    if head:
        kept |= set(facts.levels[0])
    frozen = [unit for unit in reversed(units) if unit not in kept]
    return Recipe(
        stages={"train": {"freeze": tuple(map(_of_unit, frozen))}},
        source="Lee et al., 2022, arXiv:2210.11466",
        reasons=(
            f"{why}: trained are {', '.join(unit for unit in reversed(units) if unit in kept)}, the rest is frozen",
        ),
    )


def _of_unit(unit: str) -> str:
    return of_units((unit,))

"""Networks of one model merged in the space of their weights: rules, each a generator of candidates.

A rule reads a `Problem` and yields (what it tried, the merged leaves). Whoever reads it sends back the candidate's
score on val, the larger the better, and keeps the best candidate; of equals, the one tried last.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxfer.errors import InputError, nearest
from jaxfer.merging import soups, vectors, weighted
from jaxfer.merging.problem import Candidate, Leaves, Problem

__all__ = ["RULES", "Candidate", "Leaves", "Merging", "Problem", "Rule", "merging"]

TENTHS = tuple(round(0.1 * i, 1) for i in range(11))


class Rule(NamedTuple):
    """A way to merge.

    Attributes:
      merge: (problem, **settings) -> its candidates, one by one.
      settings: {name: default}.
      base: whether it reads the start that the networks have in common.
      paper: whose it is.
    """

    merge: Callable[..., Generator[Candidate, float, None]]
    paper: str
    settings: Mapping[str, Any] = {}
    base: bool = False


STRENGTHS = {"strengths": TENTHS[1:]}
RULES = {
    "uniform": Rule(soups.uniform, "Wortsman et al., 2022, arXiv:2203.05482"),
    "greedy": Rule(soups.greedy, "Wortsman et al., 2022, arXiv:2203.05482, Recipe 1"),
    "wise_ft": Rule(soups.wise_ft, "Wortsman et al., 2022, arXiv:2109.01903", {"strengths": TENTHS}, base=True),
    "arithmetic": Rule(vectors.arithmetic, "Ilharco et al., 2023, arXiv:2212.04089", STRENGTHS, base=True),
    "ties": Rule(vectors.ties, "Yadav et al., 2023, arXiv:2306.01708", {**STRENGTHS, "density": 0.2}, base=True),
    "dare": Rule(vectors.dare, "Yu et al., 2024, arXiv:2311.03099", {**STRENGTHS, "density": 0.1}, base=True),
    "fisher": Rule(weighted.fisher, "Matena and Raffel, 2022, arXiv:2111.09832", {"expected": True}),
    "regmean": Rule(weighted.regmean, "Jin et al., 2023, arXiv:2212.09849", {"shrink": 0.9}),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Merging:
    """How a method merges networks at once, in place of steps.

    Attributes:
      name: a key of `RULES`.
      networks: names of the networks, as in `config.networks`.
      settings: of the rule.
    """

    name: str
    networks: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    done, reads_batches = "merged", False

    @property
    def rule(self) -> Rule:
        """The rule."""
        return RULES[self.name]

    @property
    def does(self) -> str:
        """What a stage does with it, as a clause."""
        return f"the weights are made at once by {self.told(())}"

    def told(self, parts: tuple[str, ...]) -> str:
        """`greedy, of 3 networks`."""
        return f"{self.name}, of {len(self.networks)} network{'s' if len(self.networks) > 1 else ''}"

    def __call__(self, problem: Problem) -> Generator[Candidate, float, None]:
        """The candidates, as `Rule.merge` gives them."""
        return self.rule.merge(problem, **self.settings)


def merging(name: str, networks: tuple[str, ...], given: Mapping[str, Any], where: str) -> Merging:
    """The merging that options name, checked.

    Args:
      name: of the rule.
      networks: names of the networks.
      given: settings; one that is None has the rule's default.
      where: what an error calls the owner of the options (`merge`).

    Raises:
      InputError: no such rule, no networks or one named twice, or a setting that the rule lacks or can't have.
    """
    if name not in RULES:
        raise InputError(f"{where}: expected rule to be {', '.join(RULES)}, found {name!r}{nearest(name, RULES)}")
    if not networks or len(set(networks)) < len(networks):
        fix = "name each network of config.networks once"
        raise InputError(f"{where}: expected networks to merge, found {networks!r}; {fix}")
    rule, given = RULES[name], {key: value for key, value in given.items() if value is not None}
    for key, value in given.items():
        if key not in rule.settings:
            owners = ", ".join(other for other, its in RULES.items() if key in its.settings)
            raise InputError(f"{where}: rule {name!r} has no {key}, found {value!r}; it belongs to {owners}")
    settings = {**rule.settings, **given}
    for key in ("density", "shrink"):
        if key in settings and not 0 < settings[key] <= 1:
            raise InputError(f"{where}: expected {key} above 0 and at most 1, found {settings[key]!r}")
    strengths = settings.get("strengths", (1.0,))
    if not strengths or len(set(strengths)) < len(strengths) or not all(abs(value) < 1e3 for value in strengths):
        raise InputError(f"{where}: expected distinct finite strengths, found {strengths!r}")
    return Merging(name=name, networks=networks, settings=settings)

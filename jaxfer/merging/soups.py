"""Soups: means of fine-tuned networks, and the line from their start to them.

Wortsman et al., 2022, "Model soups", arXiv:2203.05482: `uniform` is the mean of all, `greedy` (Recipe 1) takes the
networks in the order of their score on val and keeps each that does not make the mean worse. Wortsman et al., 2022,
"Robust fine-tuning of zero-shot models", arXiv:2109.01903, eq. 1: `wise_ft`, (1 - a) * start + a * fine-tuned.
"""

from __future__ import annotations

from collections.abc import Generator

from jaxfer.merging.problem import Candidate, Problem, mean

Candidates = Generator[Candidate, float, None]


def uniform(problem: Problem) -> Candidates:
    """The mean of all networks."""
    yield Candidate({"networks": "+".join(problem.networks)}, problem.mean)


def greedy(problem: Problem) -> Candidates:
    """Each network alone, then the soups that the recipe tries."""
    scores = {}
    for name, leaves in problem.networks.items():
        scores[name] = yield Candidate({"networks": name}, leaves)
    first, *others = sorted(scores, key=lambda name: -scores[name])
    kept, best = [first], scores[first]
    for name in others:
        trial = [*kept, name]
        score = yield Candidate({"networks": "+".join(trial)}, mean(problem.networks[one] for one in trial))
        if score >= best:
            kept, best = trial, score


def wise_ft(problem: Problem, *, strengths: tuple[float, ...]) -> Candidates:
    """Points on the line from the start to the mean of the networks; a fresh leaf is the networks' at each."""
    tuned = problem.mean
    for a in strengths:
        line = {
            path: leaf if path in problem.fresh else (1 - a) * problem.base[path] + a * leaf
            for path, leaf in tuned.items()
        }
        yield Candidate({"strength": a}, line)

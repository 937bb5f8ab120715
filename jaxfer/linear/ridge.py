"""Ridge regression, for a path of penalties: sum_i |y_i - x_i W - b|^2 + penalty |W|^2 (scikit-learn's alpha)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jaxfer.linear.problem import Problem, Solution


def solve(problem: Problem, *, penalties: Sequence[float]) -> Iterator[Solution]:
    """Least squares: along the axes every weight has a solution of its own, so that a penalty costs next to nothing."""
    targets, spectrum = problem.targets, problem.inputs.spectrum
    bias = targets.mean(0)
    moments = problem.x.T @ (targets - bias)
    for penalty in penalties:
        yield Solution({"penalty": penalty}, moments / (spectrum + penalty)[:, None], bias)

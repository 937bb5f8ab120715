"""Linear models fitted at once to features: ridge and logistic regression for a path of penalties, and DINOv2's grid.

Ridge and logistic regression read inputs that are standardised by the training mean and deviation, and turned to their
principal axes, from one eigendecomposition: a penalty on squared weights is the same along any axes, and what is zero
on all training inputs is never needed. No penalty holds the bias. The grid reads features as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxfer.errors import InputError, nearest
from jaxfer.linear import dinov2, lbfgs, prototypes, ridge
from jaxfer.linear.problem import Axes, Inputs, Plain, Problem, Solution

__all__ = ["GRIDS", "PENALTIES", "SOLVERS", "Axes", "Fit", "Plain", "Problem", "Solution", "Solver", "fit", "grid"]

# 45 from 1e-6 to 1e5, evenly spaced logarithms: Kornblith et al., 2019, arXiv:1805.08974, appendix A.
PENALTIES = tuple(float(f"{value:.6g}") for value in np.logspace(5, -6, 45))


class Solver(NamedTuple):
    """A way to fit.

    Attributes:
      solve: (problem, **settings) -> its solutions, one by one; None in between where it is still at work, so that
        whoever reads them can stop.
      inputs: (features [n, d]) -> how it reads features.
      count: (names of the parts of the features, **settings) -> how many solutions there will be.
      tasks: names of the tasks that it can fit.
      option: of the method, that names it.
      along: what orders its solutions, the first word of `Solution.tried`.
      many: what they are called together.
      steps: whether it takes batches.
    """

    solve: Callable[..., Iterator[Solution | None]]
    inputs: Callable[[np.ndarray], Inputs]
    count: Callable[..., int]
    tasks: tuple[str, ...]
    option: str = "fit"
    along: str = "penalty"
    many: str = "penalties"
    steps: bool = False


def _penalties(parts: tuple[str, ...], *, penalties: tuple[float, ...]) -> int:
    return len(penalties)


SOLVERS = {
    "ridge": Solver(ridge.solve, Axes.of, _penalties, ("classification", "regression")),
    "lbfgs": Solver(lbfgs.solve, Axes.of, _penalties, ("classification",)),
    "prototypes": Solver(
        prototypes.solve, Plain.of, lambda parts: 1, ("classification",), along="variance", many="solution"
    ),
}
GRIDS = {
    "dinov2": Solver(
        dinov2.solve,
        Plain.of,
        dinov2.count,
        ("classification", "multilabel", "regression"),
        option="grid",
        along="rate",
        many="linear layers",
        steps=True,
    ),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """How a method fits the output layer at once, in place of steps.

    Attributes:
      name: of the solver: `ridge`, `lbfgs` or `dinov2`.
      settings: of the solver: `penalties`, the strongest first, or `epochs`.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    done = "fitted"

    @property
    def solver(self) -> Solver:
        """The solver."""
        return (SOLVERS | GRIDS)[self.name]

    @property
    def does(self) -> str:
        """What a stage does with it, as a clause."""
        return f"the head is fitted at once by {self.name}"

    @property
    def reads_batches(self) -> bool:
        """Whether the batch size has a say."""
        return self.solver.steps

    def told(self, parts: tuple[str, ...]) -> str:
        """`ridge, 45 penalties`: the solver, and how much it tries on features of these parts."""
        return f"{self.name}, {self.solver.count(parts, **self.settings)} {self.solver.many}"

    def __call__(self, problem: Problem) -> Iterator[Solution | None]:
        """The solutions, as `Solver.solve` gives them."""
        return self.solver.solve(problem, **self.settings)


def fit(name: str | None, penalties: tuple[float, ...] | None, where: str) -> Fit | None:
    """The fit that two options name, checked; None for none.

    Args:
      name: of the solver.
      penalties: the path in any order; None: `PENALTIES`.
      where: what an error calls the owner of the options (`probe`).

    Raises:
      InputError: no such solver, penalties that are not positive or occur twice, or penalties where nothing has any.
    """
    if name is None:
        if penalties is not None:
            raise InputError(f"{where}: penalties are for a fit at once; set fit to {' or '.join(SOLVERS)}")
        return None
    if name not in SOLVERS:
        raise InputError(f"{where}: expected fit to be {' or '.join(SOLVERS)}, found {name!r}{nearest(name, SOLVERS)}")
    if name == "prototypes":
        if penalties is not None:
            raise InputError(f"{where}: prototypes have no penalty, found penalties={penalties!r}; omit them")
        return Fit(name=name)
    if penalties is None:
        return Fit(name=name, settings={"penalties": PENALTIES})
    if not penalties or len(set(penalties)) < len(penalties) or not all(0 < value < np.inf for value in penalties):
        raise InputError(f"{where}: expected distinct positive penalties, found {penalties!r}; correct or omit them")
    return Fit(name=name, settings={"penalties": tuple(sorted(penalties, reverse=True))})


def grid(name: str | None, epochs: int | None, where: str) -> Fit | None:
    """The grid that two options name, checked; None for none.

    Args:
      name: of the grid.
      epochs: over the training examples; None: the grid's own.
      where: as for `fit`.

    Raises:
      InputError: no such grid, epochs that are not positive, or epochs without a grid.
    """
    if name is None:
        if epochs is not None:
            raise InputError(f"{where}: epochs are for a grid; set grid to {' or '.join(GRIDS)}")
        return None
    if name not in GRIDS:
        raise InputError(f"{where}: expected grid to be {' or '.join(GRIDS)}, found {name!r}{nearest(name, GRIDS)}")
    if epochs is not None and epochs < 1:
        raise InputError(f"{where}: epochs must be a positive integer, found {epochs!r}; correct or omit it")
    return Fit(name=name, settings={} if epochs is None else {"epochs": epochs})

"""Task vectors: what fine-tuning added to the start, scaled, trimmed and summed.

`arithmetic`, Ilharco et al., 2023, "Editing Models with Task Arithmetic", arXiv:2212.04089: start + strength * sum of
(network - start). `ties`, Yadav et al., 2023, "TIES-Merging", arXiv:2306.01708, Algorithm 1: of each vector the share
`density` that is largest in size is kept, a parameter's sign is that of the sum, and the mean is over values of that
sign. `dare`, Yu et al., 2024, "Language Models are Super Mario", arXiv:2311.03099, eq. 2 and 3: of each vector a
random share `density` is kept and divided by `density`, then arithmetic.

Leaves that the start does not share (a new head) and running statistics are the mean of the networks'.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np

from jaxfer.merging.problem import Candidate, Leaves, Problem

Candidates = Generator[Candidate, float, None]


def arithmetic(problem: Problem, *, strengths: tuple[float, ...]) -> Candidates:
    """Sums of the vectors at each strength."""
    yield from _along(problem, strengths, lambda vectors: sum(vectors))


def ties(problem: Problem, *, strengths: tuple[float, ...], density: float) -> Candidates:
    """Means of the trimmed vectors over the values of the elected sign, at each strength."""

    def elected(vectors: list[np.ndarray]) -> np.ndarray:
        stack = np.stack([_trimmed(vector, density) for vector in vectors])
        agree = (stack != 0) & (np.sign(stack) == np.sign(stack.sum(0)))
        return (stack * agree).sum(0) / np.maximum(agree.sum(0), 1)

    yield from _along(problem, strengths, elected)


def dare(problem: Problem, *, strengths: tuple[float, ...], density: float) -> Candidates:
    """Sums of what a draw keeps of the vectors, at each strength."""
    rng = np.random.default_rng(problem.seed)

    def kept(vectors: list[np.ndarray]) -> np.ndarray:
        return sum(vector * (rng.random(len(vector)) < density) / density for vector in vectors)

    yield from _along(problem, strengths, kept)


def _along(
    problem: Problem, strengths: tuple[float, ...], combine: Callable[[list[np.ndarray]], np.ndarray]
) -> Candidates:
    """start + strength * what is made of the vectors, each one flat over all leaves of the start."""
    averaged, base = problem.mean, problem.base
    paths = [path for path in averaged if path not in problem.fresh and path not in problem.statistics]
    change = combine(
        [_flat({path: leaves[path] - base[path] for path in paths}) for leaves in problem.networks.values()]
    )
    sizes = np.cumsum([averaged[path].size for path in paths])[:-1]
    parts = dict(zip(paths, np.split(change, sizes), strict=True))
    for strength in strengths:
        moved = {path: base[path] + strength * part.reshape(base[path].shape) for path, part in parts.items()}
        yield Candidate({"strength": strength}, {**averaged, **moved})


def _flat(leaves: Leaves) -> np.ndarray:
    return np.concatenate([leaf.ravel() for leaf in leaves.values()])


def _trimmed(vector: np.ndarray, density: float) -> np.ndarray:
    """The vector without its smallest values; ties at the bound are kept."""
    count = max(1, round(density * vector.size))
    bound = np.partition(np.abs(vector), -count)[-count]
    return np.where(np.abs(vector) >= bound, vector, 0.0)

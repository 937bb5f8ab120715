"""Means that weigh what each network needs: `fisher` by parameter, `regmean` by the inputs of each dense layer.

`fisher`, Matena and Raffel, 2022, "Merging Models with Fisher-Weighted Averaging", arXiv:2111.09832, eq. 4: sum of F_i
* w_i over sum of F_i, F being the diagonal Fisher information: the mean square of the gradient of log p(y | x), y being
drawn from p(y | x). As in the authors' code it is no draw, but the sum over all classes, each by its probability.
`expected=False` is the empirical one, of the label y.

`regmean`, Jin et al., 2023, "Dataless Knowledge Fusion by Merging Weights of Language Models", arXiv:2212.09849,
section 3.2: W = (sum of G_i)^-1 * sum of G_i W_i, G_i being the Gram matrix of the layer's inputs, whose entries off
the diagonal are multiplied by `shrink` (0.9 there). Biases, norms and convolutions are plain means. Both papers measure
each network on its own data; here the networks learnt one task, so both are measured on the training split.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from jaxfer.merging.problem import Candidate, Problem

Candidates = Generator[Candidate, float, None]
FLOOR = 1e-10  # of the Fisher information, relative to the largest: what no network needs is a plain mean


def fisher(problem: Problem, *, expected: bool) -> Candidates:
    """The mean by Fisher information; a leaf without any is a plain mean."""
    merged, weights = dict(problem.mean), {name: problem.fisher(name, expected) for name in problem.networks}
    largest = max((leaf.max() for leaves in weights.values() for leaf in leaves.values() if leaf.size), default=0.0)
    for path in next(iter(weights.values())):
        each = [weights[name][path] + FLOOR * largest + np.finfo(np.float64).tiny for name in problem.networks]
        values = [leaves[path] for leaves in problem.networks.values()]
        merged[path] = sum(w * x for w, x in zip(each, values, strict=True)) / sum(each)
    yield Candidate({"networks": "+".join(problem.networks)}, merged)


def regmean(problem: Problem, *, shrink: float) -> Candidates:
    """Dense kernels by the inputs of their layers, all other leaves by plain means."""
    merged, grams = dict(problem.mean), {name: problem.grams(name) for name in problem.networks}
    for path in next(iter(grams.values())):
        total = right = 0.0
        for name, leaves in problem.networks.items():
            gram = grams[name][path]
            gram = shrink * gram + (1 - shrink) * np.diag(np.diag(gram))
            total, right = total + gram, right + gram @ leaves[path].reshape(len(gram), -1)
        # An input that is zero in every example has no say: the least-norm change to the plain mean.
        plain = merged[path].reshape(len(total), -1)
        solved = plain + np.linalg.lstsq(total, right - total @ plain, rcond=None)[0]
        merged[path] = solved.reshape(merged[path].shape)
    yield Candidate({"networks": "+".join(problem.networks)}, merged)

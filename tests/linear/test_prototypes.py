"""Prototypes (arXiv:1703.05175) by hand: the nearest mean, as a linear layer."""

from __future__ import annotations

import numpy as np
import pytest

from jaxfer import linear
from jaxfer.errors import InputError
from jaxfer.linear import Plain, Problem


def solved(x, labels, outputs=3):
    (solution,) = linear.fit("prototypes", None, "probe")(
        Problem(x=x, inputs=Plain.of(x), labels=np.asarray(labels), outputs=outputs)
    )
    return solution


def test_logits_are_those_of_gaussians_around_the_means():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=40)
    x = rng.normal(size=(40, 5)) + 2 * np.eye(3, 5)[labels]
    means = np.stack([x[labels == k].mean(0) for k in range(3)])
    variance = sum(np.square(x[labels == k] - means[k]).sum() for k in range(3)) / (37 * 5)
    wanted = -np.square(x[:, None] - means).sum(-1) / (2 * variance)
    found = solved(x, labels).outputs(x)
    np.testing.assert_allclose(found - found[:, :1], wanted - wanted[:, :1], rtol=0, atol=1e-9)
    assert solved(x, labels).tried == {"variance": pytest.approx(variance)}


def test_one_example_a_class_and_a_class_without():
    x = np.array([[0.0, 1.0], [3.0, 0.0]])
    solution = solved(x, [0, 2])
    assert solution.outputs(np.array([[0.5, 1.0], [2.9, 0.3], [9.0, -9.0]])).argmax(1).tolist() == [0, 2, 2]
    assert np.isfinite(solution.outputs(x)).all()


def test_they_have_no_penalties():
    with pytest.raises(InputError, match="probe: prototypes have no penalty, found penalties=.1.0,.; omit them"):
        linear.fit("prototypes", (1.0,), "probe")

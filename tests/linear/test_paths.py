"""Ridge and logistic regression, against the normal equations, scikit-learn and gradients that must vanish."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jaxfer import linear
from jaxfer.errors import InputError
from jaxfer.linear import lbfgs

PENALTIES = (100.0, 1.0, 0.01)


def data(n, d, classes=3, seed=0):
    """Features of scales from 1e-2 to 1e2 that are far from 0, and labels that depend on them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    labels = (x @ rng.normal(size=(d, classes)) + rng.normal(size=(n, classes))).argmax(-1)
    return (x * np.logspace(-2, 2, d) + 5).astype(np.float32), labels


def problem(x, labels, outputs=3):
    axes = linear.Axes.of(x)
    return linear.Problem(x=axes(x), inputs=axes, labels=labels, outputs=outputs)


def path(name, x, labels, penalties=PENALTIES, outputs=3):
    """(axes, solution of each penalty)."""
    given = problem(x, labels, outputs)
    return given.inputs, list(linear.fit(name, penalties, "probe")(given))


def standardised(x):
    x = x.astype(np.float64)
    return (x - x.mean(0)) / x.std(0)


@pytest.mark.parametrize(("n", "d"), [(60, 7), (20, 50)])
def test_ridge_is_the_solution_of_the_normal_equations(n, d):
    x, labels = data(n, d)
    targets, z = np.eye(3)[labels], standardised(x)
    axes, solutions = path("ridge", x, labels)
    assert axes.axes.shape == (d, min(d, n - 1))
    for penalty, solution in zip(PENALTIES, solutions, strict=True):
        rows, held = np.column_stack([z, np.ones(n)]), np.diag([penalty] * d + [0.0])
        found = np.linalg.solve(rows.T @ rows + held, rows.T @ targets)
        np.testing.assert_allclose(axes.axes @ solution.weights, found[:-1], atol=1e-5)
        np.testing.assert_allclose(solution.bias, found[-1], atol=1e-5)
        kernel, bias = axes.folded(solution)
        np.testing.assert_allclose(x @ kernel + bias, z @ found[:-1] + found[-1], atol=1e-5)


@pytest.mark.parametrize(("n", "d"), [(60, 7), (20, 50)])
def test_the_gradient_of_logistic_regression_vanishes(n, d):
    """The gradient of the mean objective over weights and bias, in float64, of the standardised features themselves."""
    x, labels = data(n, d)
    targets, z = np.eye(3)[labels], standardised(x)
    axes, solutions = path("lbfgs", x, labels)
    for penalty, solution in zip(PENALTIES, solutions, strict=True):
        weights = axes.axes @ solution.weights
        outputs = z @ weights + solution.bias
        chances = np.exp(outputs - outputs.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        gradient = z.T @ (chances - targets) / n + penalty / n * weights, (chances - targets).mean(0)
        norm = np.sqrt(sum(np.square(part).sum() for part in gradient))
        assert norm < 2 * lbfgs.TOLERANCE
        assert norm == pytest.approx(solution.gradient_norm, abs=1e-7)
        assert 0 < solution.iterations < 200


def test_logistic_regression_is_scikit_learns():
    x, labels = data(60, 7)
    axes, solutions = path("lbfgs", x, labels)
    for penalty, solution in zip(PENALTIES, solutions, strict=True):
        model = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000).fit(standardised(x), labels)
        # A number added to all classes changes no probability: compared without it.
        np.testing.assert_allclose(
            axes.axes @ solution.weights, model.coef_.T - model.coef_.T.mean(1, keepdims=True), atol=1e-4
        )
        np.testing.assert_allclose(
            solution.bias - solution.bias.mean(), model.intercept_ - model.intercept_.mean(), atol=1e-4
        )
        assert ((axes(x) @ solution.weights + solution.bias).argmax(-1) == model.predict(standardised(x))).all()


def test_separable_examples_under_a_tiny_penalty_stay_finite():
    x, labels = np.array([[-1.0], [-0.9], [0.9], [1.0]], np.float32), np.array([0, 0, 1, 1])
    axes, (solution,) = path("lbfgs", x, labels, (1e-9,), 2)
    kernel, bias = axes.folded(solution)
    assert np.isfinite(kernel).all() and ((x @ kernel + bias).argmax(-1) == labels).all()
    assert solution.gradient_norm <= lbfgs.TOLERANCE and np.abs(solution.weights).max() < 100


@pytest.mark.parametrize("name", ["ridge", "lbfgs"])
def test_a_constant_feature_has_no_weight(name):
    """Also where it is constant up to the rounding of float32, which standardising would blow up."""
    x, labels = data(30, 4)
    noise = np.float32(1.7) * (1 + np.finfo(np.float32).eps * (np.arange(30) % 2))
    wider = np.column_stack([x, np.full(30, 0.1), noise, np.zeros(30)]).astype(np.float32)
    (axes, (plain,)), (wide, (solution,)) = (path(name, v, labels, (1.0,)) for v in (x, wider))
    kernel, bias = wide.folded(solution)
    assert np.abs(kernel[4:]).max() < 1e-12
    np.testing.assert_allclose(kernel[:4], axes.folded(plain)[0], atol=1e-5)
    np.testing.assert_allclose(wider @ kernel + bias, x @ axes.folded(plain)[0] + axes.folded(plain)[1], atol=1e-5)


@pytest.mark.parametrize("name", ["ridge", "lbfgs"])
def test_features_that_are_all_constant_leave_the_bias(name):
    axes, (solution,) = path(name, np.ones((4, 3), np.float32), np.array([0, 0, 0, 1]), (1.0,), 2)
    kernel, bias = axes.folded(solution)
    assert kernel.shape == (3, 2) and not kernel.any()
    expected = {"ridge": 0.75 - 0.25, "lbfgs": np.log(3)}[name]
    assert bias[0] - bias[1] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["ridge", "lbfgs"])
def test_a_class_without_an_example_is_finite_and_never_chosen(name):
    x, labels = data(40, 5)
    axes, solutions = path(name, x, labels, outputs=4)
    for solution in solutions:
        kernel, bias = axes.folded(solution)
        outputs = x @ kernel + bias
        assert np.isfinite(outputs).all() and (outputs.argmax(-1) < 3).all()


def test_the_path_goes_from_the_strongest_to_the_weakest_and_jax_stays_at_float32():
    fit = linear.fit("lbfgs", (0.1, 10.0, 1.0), "probe")
    x, labels = data(20, 3)
    seen = []
    for solution in fit(problem(x, labels)):
        seen.append(solution.tried["penalty"])
        assert solution.weights.dtype == np.float64 and jnp.asarray(1.0).dtype == jnp.float32
    assert seen == [10.0, 1.0, 0.1]


def test_the_default_path_has_45_evenly_spaced_penalties():
    penalties = linear.fit("ridge", None, "probe").settings["penalties"]
    assert (len(penalties), penalties[0], penalties[-1]) == (45, 1e5, 1e-6)
    np.testing.assert_allclose(np.diff(np.log10(penalties)), -0.25, atol=1e-5)


@pytest.mark.parametrize("penalties", [(), (1.0, 1.0), (0.0,), (-1.0,), (float("nan"),)])
def test_penalties_are_distinct_and_positive(penalties):
    with pytest.raises(InputError, match="probe: expected distinct positive penalties, found"):
        linear.fit("ridge", penalties, "probe")

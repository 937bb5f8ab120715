"""Rules of merging by hand, on networks of a few numbers."""

from __future__ import annotations

import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.merging import Problem, merging

BASE = {"params/a": np.array([1.0, 2.0, 0.0, -1.0]), "params/head": np.array([9.0]), "stats/mean": np.array([0.5])}
ONE = {"params/a": np.array([2.0, 2.5, 0.0, -3.0]), "params/head": np.array([1.0]), "stats/mean": np.array([1.0])}
TWO = {"params/a": np.array([0.5, 2.0, 4.0, -2.0]), "params/head": np.array([3.0]), "stats/mean": np.array([2.0])}
# What they add to the start: (1, .5, 0, -2) and (-.5, 0, 4, -1).


def problem(**fields):
    shared = dict(fresh=frozenset({"params/head"}), statistics=frozenset({"stats/mean"}))
    return Problem(networks={"one": ONE, "two": TWO}, base=BASE, **{**shared, **fields})


def tried(rule, given=None, scores=(), **fields):
    """[(what was tried, leaves)] of a rule that is told these scores."""
    candidates, found, score = merging(rule, ("one", "two"), given or {}, "merge")(problem(**fields)), [], None
    for told in (*scores, *[0.0] * 20):
        try:
            found.append(next(candidates) if score is None else candidates.send(score))
        except StopIteration:
            break
        score = told
    return found


def close(found, a, head=2.0, mean=1.5):
    np.testing.assert_allclose(found.leaves["params/a"], a, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.leaves["params/head"], [head], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.leaves["stats/mean"], [mean], rtol=0, atol=1e-12)


def test_uniform_is_the_mean():
    (soup,) = tried("uniform")
    assert soup.tried == {"networks": "one+two"}
    close(soup, [1.25, 2.25, 2.0, -2.5])


@pytest.mark.parametrize(("third", "kept"), [(0.8, "two+one"), (0.7, "two+one"), (0.6, "two")])
def test_greedy_begins_with_the_best_and_keeps_what_is_no_worse(third, kept):
    found = tried("greedy", scores=(0.5, 0.7, third))
    assert [one.tried["networks"] for one in found] == ["one", "two", "two+one"]
    close(found[0], ONE["params/a"], 1.0, 1.0)
    close(found[2], [1.25, 2.25, 2.0, -2.5])


def test_wise_ft_is_the_line_from_the_start_and_a_fresh_head_is_the_networks():
    none, half, all_ = tried("wise_ft", {"strengths": (0.0, 0.5, 1.0)})
    close(none, BASE["params/a"], 2.0, 0.5)
    close(half, [1.125, 2.125, 1.0, -1.75], 2.0, 1.0)
    close(all_, [1.25, 2.25, 2.0, -2.5], 2.0, 1.5)
    (shared,) = tried("wise_ft", {"strengths": (0.5,)}, fresh=frozenset())
    close(shared, [1.125, 2.125, 1.0, -1.75], 5.5, 1.0)


def test_arithmetic_adds_the_vectors_and_averages_running_statistics():
    half, all_ = tried("arithmetic", {"strengths": (0.5, 1.0)})
    close(half, [1.25, 2.25, 2.0, -2.5])
    close(all_, [1.5, 2.5, 4.0, -4.0])


def test_ties_trims_elects_and_takes_the_mean_of_one_sign():
    """Half of each vector: (1, 0, 0, -2) and (0, 0, 4, -1); three quarters: (1, .5, 0, -2) and (-.5, 0, 4, -1)."""
    (half,) = tried("ties", {"strengths": (1.0,), "density": 0.5})
    close(half, [2.0, 2.0, 4.0, -2.5])
    (more,) = tried("ties", {"strengths": (2.0,), "density": 0.75})
    close(more, [3.0, 3.0, 8.0, -4.0])


def test_dare_keeps_a_share_and_makes_up_for_the_rest():
    (found,) = tried("dare", {"strengths": (1.0,), "density": 0.5}, seed=3)
    rng = np.random.default_rng(3)
    first, second = (rng.random(4) < 0.5 for _ in range(2))
    close(found, BASE["params/a"] + 2 * (first * [1, 0.5, 0, -2] + second * [-0.5, 0, 4, -1]))
    (whole,) = tried("dare", {"strengths": (1.0,), "density": 1.0})
    close(whole, [1.5, 2.5, 4.0, -4.0])


def test_fisher_weighs_each_parameter_and_a_useless_one_is_a_plain_mean():
    information = {
        "one": {"params/a": np.array([3.0, 1.0, 0.0, 1e3]), "params/head": np.array([1.0])},
        "two": {"params/a": np.array([1.0, 1.0, 0.0, 0.0]), "params/head": np.array([3.0])},
    }
    (found,) = tried("fisher", fisher=lambda name, expected: information[name])
    np.testing.assert_allclose(found.leaves["params/a"], [1.625, 2.25, 2.0, -3.0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.leaves["params/head"], [2.5], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.leaves["stats/mean"], [1.5], rtol=0, atol=1e-12)


def test_fisher_asks_for_the_expected_information():
    asked = []

    def fisher(name, expected):
        asked.append((name, expected))
        return {"params/a": np.ones(4)}

    tried("fisher", {"expected": False}, fisher=fisher)
    (found,) = tried("fisher", fisher=fisher)
    assert asked == [("one", False), ("two", False), ("one", True), ("two", True)]
    close(found, [1.25, 2.25, 2.0, -2.5])


def test_regmean_minimises_the_distance_of_the_outputs():
    """With the whole Gram matrices: the least squares of sum |x W - x W_i|^2, which no other kernel beats."""
    rng = np.random.default_rng(0)
    inputs, kernels = rng.normal(size=(2, 30, 3)), rng.normal(size=(2, 3, 2))
    inputs[:, :, 2] = 0.0  # an input that is always zero leaves the plain mean
    networks = {name: {"params/k": kernel} for name, kernel in zip(("one", "two"), kernels, strict=True)}
    grams = {n: {"params/k": x.T @ x / 30} for n, x in zip(networks, inputs, strict=True)}
    given = Problem(networks=networks, base={}, grams=grams.get)
    (found,) = merging("regmean", ("one", "two"), {"shrink": 1.0}, "merge")(given)
    wanted, *_ = np.linalg.lstsq(np.concatenate(inputs)[:, :2], np.concatenate(inputs @ kernels), None)
    np.testing.assert_allclose(found.leaves["params/k"][:2], wanted, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.leaves["params/k"][2], kernels[:, 2].mean(0), rtol=0, atol=1e-9)
    (diagonal,) = merging("regmean", ("one", "two"), {"shrink": 1e-9}, "merge")(given)
    d = np.stack([np.diag(grams[name]["params/k"])[:2, None] for name in networks])
    np.testing.assert_allclose(
        diagonal.leaves["params/k"][:2], (d * kernels[:, :2]).sum(0) / d.sum(0), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("rule", "networks", "given", "message"),
    [
        ("soup", ("a",), {}, "merge: expected rule to be uniform, .* found 'soup'"),
        ("uniform", (), {}, r"merge: expected networks to merge, found \(\)"),
        ("uniform", ("a", "a"), {}, "name each network of config.networks once"),
        ("uniform", ("a",), {"density": 0.5}, "rule 'uniform' has no density, found 0.5; it belongs to ties, dare"),
        ("ties", ("a",), {"density": 0.0}, "expected density above 0 and at most 1, found 0.0"),
        ("wise_ft", ("a",), {"strengths": (0.1, 0.1)}, "expected distinct finite strengths"),
    ],
)
def test_bad_settings_are_one_line(rule, networks, given, message):
    with pytest.raises(InputError, match=message):
        merging(rule, networks, given, "merge")

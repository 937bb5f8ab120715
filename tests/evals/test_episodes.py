"""Classifiers of few examples, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.evals import episodes
from jaxfer.evals.episodes import Draw, Support

X = np.array([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0]])
SUPPORT = Support(X, np.array([0, 0, 1]), 2)
NONE = np.zeros((1, 2))


def test_prototypes_take_the_nearest_mean():
    queries = np.array([[1.4, 0.6], [1.0, 1.0]])  # means (3, 0) and (0, 1): the bisector is 3 x - y = 4
    scores = episodes.nearest_mean(SUPPORT, queries, NONE)
    margin = (np.square(queries - [0, 1]).sum(1) - np.square(queries - [3, 0]).sum(1)) / 2
    np.testing.assert_allclose(scores[:, 0] - scores[:, 1], margin, rtol=1e-12)  # variance 2 / (1 degree x 2)


def test_simple_shot_sees_directions_from_the_mean():
    centre, query = X.mean(0), np.array([[3.0, 0.1]])
    near = episodes.unit(X - centre)
    wanted = [np.square(episodes.unit(query - centre) - near[rows].mean(0)).sum() for rows in ([0, 1], [2])]
    scores = episodes.simple_shot(SUPPORT, query, NONE)
    assert (scores[0, 0] > scores[0, 1]) == (wanted[0] < wanted[1])


def test_neighbours_weigh_their_votes_by_cosine():
    query = np.array([[1.0, 2.0]])
    cosines = np.array([1.0, 1.0, 2.0]) / np.sqrt(5)
    weights = np.exp((cosines - 1) / 0.07)
    scores = episodes.neighbours(SUPPORT, query, NONE)
    np.testing.assert_allclose(scores, [[weights[0] + weights[1], weights[2]]], rtol=1e-12)
    many = Support(np.repeat(X, [1, 30, 20], axis=0), np.repeat([0, 0, 1], [1, 30, 20]), 2)
    np.testing.assert_allclose(episodes.neighbours(many, query, NONE), [[0, 20 * weights[2]]], rtol=1e-12)


def test_logistic_regression_never_chooses_a_class_without_an_example():
    many = Support(np.tile(X, (20, 1)), np.tile([0, 0, 2], 20), 3)
    scores = episodes.logistic(many, np.array([[1.0, 0.0], [0.0, 3.0]]), NONE)
    assert list(scores.argmax(1)) == [0, 2] and np.isinf(scores[:, 1]).all()


def test_tip_adapter_adds_a_memory_to_the_logits():
    query, logits = np.array([[3.0, 4.0]]), np.array([[0.5, 0.25]])
    memory = np.exp(-5.5 * (1 - np.array([0.6, 0.6, 0.8])))
    wanted = logits + [memory[0] + memory[1], memory[2]]
    np.testing.assert_allclose(episodes.tip(SUPPORT, query, logits), wanted, rtol=1e-12)
    memory = 3 * np.exp(-2 * (1 - np.array([0.6, 0.6, 0.8])))
    wanted = logits + [memory[0] + memory[1], memory[2]]
    found = episodes.classifier("tip", alpha=3.0, beta=2.0)(SUPPORT, query, logits)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("given", [{}, {"alpha": 2.0, "beta": 1.5}])
def test_the_memory_of_tip_adapter_is_trained_on_the_support(given):
    """20 steps of AdamW by hand: one batch an epoch, whose order does not count."""
    alpha, beta = given.get("alpha", 1.0), given.get("beta", 5.5)
    own = np.array([[0.5, 0.0], [0.0, 0.2], [0.3, 0.1]])
    support, x, votes = SUPPORT._replace(logits=own), episodes.unit(X), np.eye(2)[SUPPORT.labels]
    keys, first, second = x.copy(), np.zeros_like(x), np.zeros_like(x)
    for step in range(20):
        affinity = alpha * np.exp(-beta * (1 - x @ keys.T))
        logits = own + affinity @ votes
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        slope = beta * (affinity * ((chances - votes) / 3 @ votes.T)).T @ x
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        update = first / (1 - 0.9 ** (step + 1)) / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-4)
        keys -= 1e-3 * (1 + np.cos(np.pi * step / 20)) / 2 * (update + 0.01 * keys)
    query, logits = np.array([[3.0, 4.0]]), np.array([[0.5, 0.25]])
    wanted = logits + alpha * np.exp(-beta * (1 - np.array([[0.6, 0.8]]) @ keys.T)) @ votes
    found = episodes.classifier("tip-f", **given)(support, query, logits)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert np.abs(found - episodes.tip(support, query, logits, **given)).max() > 1e-3


def test_episodes():
    labels = np.repeat([3, 5, 7, 9], [4, 4, 4, 2])
    drawn = list(episodes.episodes(labels, way=3, shot=1, queries=2, count=20, seed=0))
    for draw in drawn:
        assert sorted(draw.classes) == [3, 5, 7], "the class of two examples is too small"
        assert list(labels[draw.support]) == list(draw.classes)
        assert list(labels[draw.queries]) == list(np.repeat(draw.classes, 2))
        assert len({*draw.support, *draw.queries}) == 9, "no example is in both"
    again = list(episodes.episodes(labels, way=3, shot=1, queries=2, count=20, seed=0))
    assert all(np.array_equal(a.support, b.support) for a, b in zip(drawn, again, strict=True))
    assert len({tuple(draw.support) for draw in drawn}) > 10
    with pytest.raises(InputError, match="expected 4 classes with 3 examples each, found 3 of 4 classes; lower --way"):
        next(episodes.episodes(labels, way=4, shot=1, queries=2, count=1, seed=0))


def test_all_classifiers_see_the_same_episode():
    x = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1], [0.9, 0.1]])
    logits = np.array([[0, 0.5]] * 5)
    draw = Draw(np.array([1, 0]), np.array([0, 2]), np.array([1, 3]))
    names = (*episodes.CLASSIFIERS, *episodes.OF_LOGITS)
    found = episodes.accuracies(x, logits, iter([draw]), names)
    assert found == {**{name: [1.0] for name in names}, "zero-shot": [0.5], "tip": [1.0]}

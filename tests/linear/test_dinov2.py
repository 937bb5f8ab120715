"""DINOv2's grid: each layer against the same layer trained alone by optax."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfer import linear
from jaxfer.data.order import batch_indices
from jaxfer.errors import InputError
from jaxfer.linear import dinov2
from jaxfer.registry import TASKS

PARTS, WIDTH, BATCH, EPOCHS = ("block_1", "block_2", "mean"), 4, 8, 5


def batches(first, number, size):
    return np.stack([batch_indices(3, step, size=size, batch_size=BATCH) for step in range(first, first + number)])


def mean_loss(task):
    return lambda outputs, labels, hparams: task.loss(outputs, {"label": labels}, hparams).value()


def problem(n=30, parts=PARTS, task="classification", **fields):
    """Features of three parts, and labels that depend on all of them."""
    rng = np.random.default_rng(0)
    x = 3 * rng.normal(size=(n, WIDTH * max(1, len(parts)))).astype(np.float32)
    scores = x @ rng.normal(size=(x.shape[1], 3))
    labels = {
        "classification": scores.argmax(-1).astype(np.int32),
        "multilabel": scores > 0,
        "regression": scores[:, 0].astype(np.float32),
    }[task]
    made = TASKS.make(task)
    given = {
        "labels": labels,
        "outputs": 1 if task == "regression" else 3,
        "loss": mean_loss(made),
        "hparams": dict(made.hparams or {}),
        "batches": functools.partial(batches, size=n),
        "batch_size": BATCH,
        "key": jax.random.key(1),
    }
    return linear.Problem(x=x, inputs=linear.Plain.of(x), parts=parts, **{**given, **fields})


def solved(given, epochs=EPOCHS):
    return [found for found in linear.grid("dinov2", epochs, "probe")(given) if found is not None]


def first_weights(given, monkeypatch):
    """What every layer starts from: the solutions of rate 0."""
    with monkeypatch.context() as patch:
        patch.setattr(dinov2, "RATES", (0.0,) * len(dinov2.RATES))
        return solved(given)


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_each_layer_is_what_optax_trains_alone(task, monkeypatch):
    given = problem(task=task)
    if task == "classification":
        given = problem(hparams={"label_smoothing": 0.1})
    begun, ended = first_weights(given, monkeypatch), solved(given)
    steps = -(-EPOCHS * 30 // BATCH)
    for place, columns in ((9, slice(4, 8)), (12, slice(4, 8)), (51, slice(0, 12)), (37, slice(0, 8))):
        rate = dinov2.RATES[place % 13] * BATCH / 256
        tx = optax.sgd(optax.cosine_decay_schedule(rate, steps), momentum=0.9)
        layer = tuple(jnp.asarray(part) for part in (begun[place].weights, begun[place].bias))
        state = tx.init(layer)
        for step in range(steps):
            rows = batches(step, 1, 30)[0]

            def loss(layer, rows=rows, columns=columns):
                outputs = given.x[rows][:, columns] @ layer[0] + layer[1]
                return given.loss(outputs, given.labels[rows], given.hparams)

            updates, state = tx.update(jax.grad(loss)(layer), state)
            layer = optax.apply_updates(layer, updates)
        assert ended[place].columns == columns
        np.testing.assert_allclose(ended[place].weights, layer[0], atol=1e-5)
        np.testing.assert_allclose(ended[place].bias, layer[1], atol=1e-5)
        assert np.abs(ended[place].weights - begun[place].weights).max() > 1e-3


def test_there_are_52_layers_in_the_papers_order():
    parts = ("block_8", "block_9", "block_10", "block_11", "mean")
    found = [solution.tried for solution in solved(problem(parts=parts), 1)]
    assert [(one["blocks"], one["pool"]) for one in found[::13]] == [(1, False), (1, True), (4, False), (4, True)]
    assert [one["rate"] for one in found] == list(dinov2.RATES) * 4 and len(found) == 52
    rates = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1]
    assert list(dinov2.RATES) == rates and dinov2.EPOCHS == 10


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((), [({}, slice(0, 12))]),
        (("block_1",), [({"blocks": 1, "pool": False}, slice(0, 12))]),
        (
            ("block_1", "mean"),
            [({"blocks": 1, "pool": False}, slice(0, 6)), ({"blocks": 1, "pool": True}, slice(0, 12))],
        ),
        (
            ("block_0", "block_1"),
            [({"blocks": 1, "pool": False}, slice(6, 12)), ({"blocks": 2, "pool": False}, slice(0, 12))],
        ),
    ],
)
def test_only_what_the_features_hold_is_tried(parts, expected):
    assert dinov2.choices(parts, 12) == expected


def test_first_weights_are_small_and_the_biases_zero(monkeypatch):
    begun = first_weights(problem(n=100), monkeypatch)
    weights = np.concatenate([solution.weights.ravel() for solution in begun])
    assert weights.std() == pytest.approx(0.01, rel=0.05) and abs(weights.mean()) < 1e-3
    assert not any(solution.bias.any() for solution in begun)
    assert not np.array_equal(begun[0].weights, begun[1].weights)


def test_the_length_of_a_call_changes_no_layer(monkeypatch):
    """Of 19 steps 5 at a time the last call has one to spare; each call is a chance to stop."""
    whole = solved(problem())
    monkeypatch.setattr(dinov2, "CHUNK", 5)
    parts = list(linear.grid("dinov2", EPOCHS, "probe")(problem()))
    assert parts[:4] == [None] * 4 and len(parts) == 4 + 52
    for one, other in zip(whole, parts[4:], strict=True):
        np.testing.assert_allclose(one.weights, other.weights, atol=1e-6)


def test_a_layer_is_folded_with_zeros_where_it_reads_nothing():
    given = problem()
    one, other = solved(given, 1)[13 * 2], solved(given, 1)[0]
    assert (one.columns, other.columns) == (slice(0, 8), slice(4, 8))
    kernel, bias = given.inputs.folded(other)
    assert kernel.shape == (12, 3) and not kernel[:4].any() and not kernel[8:].any()
    np.testing.assert_allclose(given.x @ kernel + bias, other.outputs(given.x), atol=1e-5)


@pytest.mark.parametrize("epochs", [0, -1])
def test_epochs_are_positive(epochs):
    with pytest.raises(InputError, match="probe: epochs must be a positive integer, found"):
        linear.grid("dinov2", epochs, "probe")

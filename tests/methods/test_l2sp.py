"""L2-SP (arXiv:1802.01483, eq. 2): the penalty by hand."""

from __future__ import annotations

import jax
import numpy as np

from jaxfer.rules import flatten
from tests.experiments import backbone, batches, tiny_stage, train


def test_penalty_by_hand():
    """After one SGD step with known rates, the second loss holds alpha/2 |w - w0|^2 + beta/2 |head|^2."""
    options = {"alpha": 0.3, "beta": 0.7}
    stage = tiny_stage("vit_cls", method="l2sp", options=options, optimizer="sgd", lr=0.1)
    plain = tiny_stage("vit_cls", method="full", optimizer="sgd", lr=0.1)
    state, _ = train(stage, 1)
    anchor, moved = flatten(backbone(stage)[0]), flatten(state.params)
    head = [path for path in moved if path.startswith("head/out/")]
    pull = sum(np.square(np.asarray(moved[p] - anchor[p], np.float64)).sum() for p in moved if p not in head)
    size = sum(np.square(np.asarray(moved[p], np.float64)).sum() for p in head)
    two = batches(stage, 2)
    outputs = jax.jit(lambda: plain.spec.port.apply(state.params, {}, two[1])[0])()
    task = float(plain.spec.task.loss(outputs, two[1], {"label_smoothing": 0.0}).value())
    _, losses = train(stage, 2)
    assert abs(losses[1] - (task + 0.15 * pull + 0.35 * size)) < 1e-5
    assert state.extra.keys() == anchor.keys() - set(head)


def test_weight_decay_beside_the_pull_is_noted():
    """The authors' alpha and beta; no decay to zero beside them by default."""
    stage = tiny_stage("vit_cls", method="l2sp")
    assert (stage.hparams["alpha"], stage.hparams["beta"]) == (0.1, 0.01) and not stage.hparams["weight_decay"]
    assert stage.notes == ()
    assert tiny_stage("vit_cls", method="l2sp", weight_decay=0.02).notes == (
        "config.weight_decay: 0.02 pulls to zero what 'l2sp' pulls to the start; 0 leaves its own pull alone",
    )


def test_a_strong_pull_holds_the_backbone():
    distances = []
    for alpha in (0.0, 5.0):
        stage = tiny_stage("vit_cls", method="l2sp", options={"alpha": alpha}, optimizer="sgd", lr=0.05)
        state, _ = train(stage, 10)
        start, end = flatten(backbone(stage)[0]), flatten(state.params)
        distances.append(sum(float(np.square(end[p] - start[p]).sum()) for p in state.extra))
    assert distances[1] < 0.5 * distances[0]

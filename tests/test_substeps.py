"""Steps of several updates: by hand on a quadratic, and the same in slices, on devices and under pmap."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxfer.conformance.training import entered
from jaxfer.errors import InputError
from jaxfer.method import SubStep, task_loss
from jaxfer.methods import sam
from jaxfer.rules import flatten, unflatten
from jaxfer.step import make_train_step
from tests.experiments import batches, tiny_stage, train

HEAD, BODY = "head/out/bias", "stem/conv/kernel"
PLAIN = dict(optimizer="sgd", lr=0.1, momentum=0.0, weight_decay=0.0)


def made(substeps, loss=task_loss, add=lambda method, port: method, **fields):
    stage = tiny_stage("resnet_basic", **{**PLAIN, **fields})
    method = dataclasses.replace(stage.spec.method, substeps=substeps, loss=loss)
    return dataclasses.replace(stage, spec=dataclasses.replace(stage.spec, method=add(method, stage.spec.port)))


def quadratic(ctx, outputs):
    """Of the head's bias b and the sum w of a kernel: (b - w)^2 / 2 where all move, b w for the head, w^2 below it."""
    leaves = flatten(ctx.params)
    b, w = leaves[HEAD][0], leaves[BODY][0, 0, 0, 0]
    value = {"all": (b - w) ** 2 / 2, "head": b * w, "body": w**2}[ctx.substep]
    return value, {f"value_{ctx.substep}": value, "last": value}


STEPS = (SubStep("all"), SubStep("head", ("head",)), SubStep("body", ("backbone",)))


def one_step(stage, b, w):
    state, (batch,) = entered(stage), batches(stage, 1)
    leaves = flatten(state.params)
    leaves |= {HEAD: leaves[HEAD].at[0].set(b), BODY: leaves[BODY].at[0, 0, 0, 0].set(w)}
    state = state.replace(params=unflatten(leaves))
    after, metrics = jax.jit(make_train_step(stage.spec))(state, batch)
    found = flatten(after.params)
    return float(found[HEAD][0]), float(found[BODY][0, 0, 0, 0]), metrics, after


def test_three_updates_by_hand():
    """From b = 2, w = 1 at rate 0.1: (1.9, 1.1), then b - 0.1 w = 1.79, then w - 0.2 w = 0.88."""
    b, w, metrics, _ = one_step(made(STEPS, quadratic), 2.0, 1.0)
    assert (b, w) == (pytest.approx(1.79, abs=1e-6), pytest.approx(0.88, abs=1e-6))
    logged = {name: float(metrics[name]) for name in ("loss", "last", "value_all", "value_head", "value_body")}
    wanted = {"loss": 0.5, "last": 0.5, "value_all": 0.5, "value_head": 1.9 * 1.1, "value_body": 1.1**2}
    assert logged == pytest.approx(wanted, abs=1e-6)
    assert float(metrics["grad_norm"]) == pytest.approx(np.sqrt(2), abs=1e-6)


def test_each_group_has_its_own_moments():
    """Adam counts a group's own updates; with momentum 0.9, b and w add 0.9 of their first to their second."""
    b, w, _, _ = one_step(made(STEPS, quadratic, momentum=0.9), 2.0, 1.0)
    # b: trace 1, then 1.1 + 0.9; w: trace -1, then 2.2 - 0.9.
    assert (b, w) == (pytest.approx(1.9 - 0.2, abs=1e-6), pytest.approx(1.1 - 0.13, abs=1e-6))
    steps = (*STEPS, STEPS[2])
    state = one_step(made(steps, quadratic, optimizer="adamw", momentum=0.9), 2.0, 1.0)[3]
    counts = {
        jax.tree_util.keystr(path): int(x) for path, x in jax.tree.leaves_with_path(state.opt_state) if x.ndim == 0
    }
    assert sorted(n for path, n in counts.items() if "'head'" in path) == [2]
    assert sorted(n for path, n in counts.items() if "'backbone'" in path) == [3]


def test_a_plateau_is_watched_once_a_step():
    stage = made(STEPS, quadratic, schedule="plateau")
    watched = one_step(stage, 2.0, 1.0)[3].opt_state[0]
    assert int(watched.count) == 1 and float(watched.avg_value) == pytest.approx(0.5, abs=1e-6)


def test_sam_is_taken_at_each_update():
    """At rho 0.5: of (b - w)^2 / 2 at b + 0.5 / sqrt 2, w - 0.5 / sqrt 2 the gradient is 1 + sqrt 0.5."""
    stage = made(STEPS, quadratic, sam.add)
    stage = dataclasses.replace(stage, hparams={**stage.hparams, "rho": 0.5})
    b, w, _, _ = one_step(stage, 2.0, 1.0)
    slope = 1 + np.sqrt(0.5)
    b_wanted, w_wanted = 2 - 0.1 * slope, 1 + 0.1 * slope
    b_wanted -= 0.1 * w_wanted
    w_wanted -= 0.2 * (w_wanted + 0.5)
    assert (b, w) == (pytest.approx(b_wanted, abs=1e-6), pytest.approx(w_wanted, abs=1e-6))


@pytest.mark.parametrize("parallel", [{"devices": 4}, {"devices": 4, "mode": "pmap"}], ids=["jit", "pmap"])
def test_slices_and_devices_give_the_same(parallel):
    substeps = (SubStep("learn"), SubStep("heads", ("head",)), SubStep("below", ("backbone",)))
    norms = {"eval_norms": (".*",)}
    whole, losses = train(made(substeps, **norms), 2)
    parts, found = train(made(substeps, accumulate=2, **norms), 2, **parallel)
    assert found == pytest.approx(losses, abs=1e-5)
    for path, leaf in flatten(whole.params).items():
        np.testing.assert_allclose(leaf, flatten(parts.params)[path], rtol=0, atol=1e-5, err_msg=path)


def test_a_substep_that_moves_nothing_is_refused():
    stage = made(STEPS, quadratic)
    frozen = dataclasses.replace(
        stage,
        spec=dataclasses.replace(
            stage.spec,
            leaves=tuple((path, leaf if path.startswith("head/") else None) for path, leaf in stage.spec.leaves),
        ),
    )
    with pytest.raises(InputError, match="sub-step 'body' moves backbone, of which nothing is trained"):
        jax.eval_shape(make_train_step(frozen.spec), frozen.blank(0), frozen.example())


def test_a_streams_task_is_learned_once_a_step():
    """By the first update: the stream's head has a step of its own loss, and the other updates add nothing to it."""
    substeps = (SubStep("learn"), SubStep("again", ("head",)))
    norms = {"eval_norms": (".*",)}
    once, several = (made(steps, method="er", **norms) for steps in ((), substeps))
    (state, losses), (again, found) = train(once, 1), train(several, 1)
    assert found == losses
    for path, leaf in flatten(state.params).items():
        if path in (HEAD, "head/out/kernel"):
            assert not np.allclose(leaf, flatten(again.params)[path], rtol=0, atol=1e-4), path
        else:  # the memory's head too
            np.testing.assert_allclose(leaf, flatten(again.params)[path], rtol=0, atol=1e-6, err_msg=path)

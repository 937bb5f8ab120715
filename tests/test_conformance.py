"""What every method must do on every model. A file in `jaxfer/methods/` joins by existing."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

import jaxfer
from jaxfer.config.experiment import ParallelConfig
from jaxfer.parallel.placement import placement
from jaxfer.registry import METHODS, MODELS
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from jaxfer.runs.metrics import TIMES, read_metrics
from jaxfer.stages import example_batch
from jaxfer.step import make_eval_step
from jaxfer.training import loop
from jaxfer.training.preemption import Notice
from jaxfer.training.programs import _train_program, train_program
from tests.experiments import backbone, batches, continue_training, tiny_config, tiny_stage, train
from tests.models.tiny import TINY

CASES = ("resnet_basic", "vit_cls", "mobilenet_v1", "bert_pooler")
EVERY = [(method, case) for method in METHODS.names() for case in CASES]


def parametrized(pairs):
    """One worker for all that is asked of a pair: its programs are compiled once."""
    return pytest.mark.parametrize(
        "method,case",
        [pytest.param(m, c, id=f"{m}-{c}", marks=pytest.mark.xdist_group(f"{m}-{c}")) for m, c in pairs],
    )


every = parametrized(EVERY)


def test_every_model_takes_part():
    assert {TINY[case][0] for case in CASES} == set(MODELS.names())


@every
def test_frozen_leaves_stay_bitwise_and_trainable_ones_move(method, case):
    stage = tiny_stage(case, method=method, lr=1e-2, weight_decay=0.1)
    before = flatten(stage.enter(*backbone(stage), 0).params)
    state, _ = train(stage, 3)
    after, trainable = flatten(state.params), stage.spec.trainable
    assert after.keys() == before.keys() == dict(stage.spec.leaves).keys()
    for path, leaf in after.items():
        same = np.array_equal(leaf, before[path])
        assert same == (path not in trainable), f"{path} {'stood still' if same else 'moved though frozen'}"


@every
def test_one_compile_for_four_rates_and_decays(method, case):
    stage = tiny_stage(case, method=method)
    (batch,), where = batches(stage, 1), placement(ParallelConfig(devices=1))
    programs, losses = set(), set()
    for rate, decay in [(1e-3, 0.0), (1e-2, 0.01), (3e-2, 0.1), (0.1, 0.5)]:
        member = tiny_stage(case, method=method, lr=rate, weight_decay=decay)
        state = member.enter(*backbone(member), 0)
        program, _ = train_program(member.spec, state, batch, where)
        for _ in range(3):
            state, metrics = program.call(state, batch)
        programs.add(id(program))
        losses.add(float(metrics["loss"]))
    assert len(programs) == 1  # ahead of time: what is called can't compile again
    assert len(losses) == 4, "the rate had no effect"


@every
def test_two_runs_share_one_program(method, case, tmp_path):
    first = tiny_config(case, method=method, seed=1, lr=1e-3)
    before = _train_program.cache_info().misses
    jaxfer.run(first, tmp_path / "a", quiet=True)
    middle = _train_program.cache_info().misses
    jaxfer.run(tiny_config(case, method=method, seed=2, lr=1e-2, weight_decay=0.3), tmp_path / "b", quiet=True)
    assert middle - before <= 1 and _train_program.cache_info().misses == middle


@every
def test_resume_equals_uninterrupted_bitwise(method, case, tmp_path, monkeypatch):
    config = tiny_config(case, method=method, steps=5, eval_every=3, log_every=2)
    jaxfer.run(config, tmp_path / "whole", quiet=True)
    stop_after(monkeypatch, steps=3)
    with pytest.raises(SystemExit) as stopped:
        jaxfer.run(config, tmp_path / "parts", quiet=True)
    assert stopped.value.code == 75
    monkeypatch.undo()
    jaxfer.run(config, tmp_path / "parts", quiet=True)
    whole, parts = open_run(tmp_path / "whole"), open_run(tmp_path / "parts")
    for name in ("params", "model_state", "opt_state", "extra"):
        pairs = zip(
            jax.tree.leaves(getattr(whole.state, name)), jax.tree.leaves(getattr(parts.state, name)), strict=True
        )
        assert all(np.array_equal(a, b) for a, b in pairs), name
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")


def stop_after(monkeypatch, steps):
    """SIGTERM's notice, given after so many steps of the loop."""

    class Countdown(Notice):
        asked = 0

        def __bool__(self):
            return self.asked >= steps

    notice, step = Countdown(), loop.Reporter.step

    def counted(self, *args):
        notice.asked += 1
        return step(self, *args)

    monkeypatch.setattr(loop.Reporter, "step", counted)
    monkeypatch.setattr(loop, "preemption_notice", lambda: _given(notice))


class _given:
    def __init__(self, value):
        self.value = value

    def __enter__(self):
        return self.value

    def __exit__(self, *error):
        return None


def lines(folder):
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(folder / "metrics.jsonl")]


PLACES = (("jit", 1), ("jit", 4), ("pmap", 4))


@every
def test_jit_on_1_equals_jit_on_4_equals_pmap_on_4_under_sgd(method, case):
    stage = tiny_stage(case, method=method, optimizer="sgd", lr=1e-2)
    (one, _), *others = [train(stage, 10, mode=mode, devices=devices) for mode, devices in PLACES]
    for other, _ in others:
        for name in ("params", "model_state"):
            ours, theirs = flatten(getattr(one, name)), flatten(getattr(other, name))
            for path, leaf in ours.items():
                np.testing.assert_allclose(leaf, theirs[path], rtol=0, atol=2e-5, err_msg=path)


# Adam's arithmetic is the same whatever the model: every method on one of them, and every model under one method.
@parametrized([(m, c) for m, c in EVERY if m == "full" or c == CASES[0]])
def test_jit_on_1_equals_jit_on_4_equals_pmap_on_4_under_adam(method, case):
    # Parameters can't be compared under Adam: it turns the rounding of a zero gradient into steps of size lr.
    stage = tiny_stage(case, method=method, lr=1e-3)
    (batch,) = batches(stage, 1, seed=9)
    found = [train(stage, 10, mode=mode, devices=devices) for mode, devices in PLACES]
    evaluate = jax.jit(make_eval_step(stage.spec))
    logits = [
        evaluate(*jax.device_get((state.params, state.model_state, state.extra)), batch)["outputs"]
        for state, _ in found
    ]
    for (_, losses), outputs in list(zip(found, logits, strict=True))[1:]:
        np.testing.assert_allclose(losses, found[0][1], rtol=0, atol=2e-5)
        np.testing.assert_allclose(outputs, logits[0], rtol=0, atol=2e-5)


def test_what_update_makes_of_a_batch_is_the_same_under_pmap(monkeypatch):
    """A method that keeps a mean of its labels: pmap's devices see a quarter of them each."""

    def mean_label(ctx, extra):
        return {"label": ctx.batch["label"].astype("float32").mean(), "kept": extra["kept"]}

    stage = tiny_stage("resnet_basic", optimizer="sgd")
    method = dataclasses.replace(
        stage.spec.method,
        init=lambda params, key: (params, {"label": np.float32(0), "kept": np.float32(1 / 3)}),
        update=mean_label,
    )
    stage = dataclasses.replace(stage, spec=dataclasses.replace(stage.spec, method=method))
    wanted = batches(stage, 2)[-1]["label"].mean()
    for mode, devices in PLACES:
        state, _ = train(stage, 2, mode=mode, devices=devices)
        assert float(state.extra["label"]) == np.float32(wanted) and float(state.extra["kept"]) == np.float32(1 / 3)


@every
def test_merged_parameters_alone_give_the_adapted_outputs(method, case):
    stage = tiny_stage(case, method=method, optimizer="sgd", lr=0.1)
    state, _ = train(stage, 3)
    (batch,) = batches(stage, 1, seed=9)
    adapted = jax.jit(make_eval_step(stage.spec))(state.params, state.model_state, state.extra, batch)["outputs"]
    params, model_state = stage.leave(state)
    assert flatten(params).keys() == flatten(backbone(stage)[0]).keys()
    merged, _ = stage.spec.port.apply(params, model_state, batch)
    np.testing.assert_allclose(adapted, merged, rtol=0, atol=1e-5 * max(1, float(np.abs(adapted).max())))


@every
def test_frozen_leaves_are_updated_in_place(method, case):
    stage = tiny_stage(case, method=method)
    state, _ = train(stage, 1)
    where = placement(ParallelConfig(devices=1))
    program, _ = train_program(stage.spec, state, example_batch(stage.spec.port, stage.spec.task, 8), where)
    assert program.alias_bytes >= sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    again, _ = continue_training(stage, state, where, batches(stage, 1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params)), "the State was not donated"
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(again.params))

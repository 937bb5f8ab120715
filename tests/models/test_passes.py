"""Dropout by rule: other rates than the model's, stochastic depth where it has none, and the rules themselves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.config import resolve
from jaxfer.config.experiment import ParallelConfig
from jaxfer.errors import InputError, RuleError
from jaxfer.models.passes import Training
from jaxfer.parallel.placement import placement
from jaxfer.training.cut import cut
from tests.experiments import backbone, batches, tiny_config, tiny_stage, train


def outputs(stage, end, seed=0):
    (params, model_state), (batch,), spec = backbone(stage), batches(stage, 1), stage.spec
    how = {"live": spec.live, "eval_norms": spec.eval_norms, "dropout": spec.dropout}
    training = Training(key=jax.random.key(seed), **how)
    passed, _ = spec.port.apply(params, model_state, batch, training=training, end=end)
    return passed, spec.port.apply(params, model_state, batch, end=end)[0]


@pytest.mark.parametrize("rate", [0.25, 0.6])
def test_the_share_that_is_dropped_and_the_scale_of_the_rest(rate):
    stage = tiny_stage("vit_cls", dropout_rules=(("stem/drop", rate),))
    trained, still = outputs(stage, "stem")
    kept = np.asarray(trained) != 0
    assert 1 - kept.mean() == pytest.approx(rate, abs=0.08)
    np.testing.assert_allclose(np.asarray(trained)[kept], np.asarray(still)[kept] / (1 - rate), rtol=1e-5)


@pytest.mark.parametrize("case", ["vit_cls", "bert_mean"])
def test_stochastic_depth_skips_branches_of_whole_examples(case):
    """Both branches of the last block at 0.5: each example adds none, or twice what the branch gives."""
    stage = tiny_stage(case, dropout_rules=((r"block_1/skip_1", 0.5), (r"block_1/skip_2", 0.999)))
    (params, model_state), (batch,), port = backbone(stage), batches(stage, 1), stage.spec.port
    seen = {}

    def watch(next_fun, args, kwargs, context):
        result = next_fun(*args, **kwargs)
        if context.module.path == ("block_1", "skip_1"):
            seen["before"], seen["after"] = args[0], result
        return result

    how = {"live": stage.spec.live, "eval_norms": stage.spec.eval_norms, "dropout": stage.spec.dropout}
    whole = 0
    for seed in range(6):
        training = Training(key=jax.random.key(seed), **how)
        port.apply(params, model_state, batch, training=training, intercept=watch, end="block_1")
        before, after = (np.asarray(seen[name]) for name in ("before", "after"))
        for one, other in zip(before, after, strict=True):
            skipped = not other.any()
            whole += skipped
            np.testing.assert_allclose(other, 0 * one if skipped else 2 * one, rtol=1e-6)
    assert 12 <= whole <= 36  # of 48 at 0.5: four deviations


def test_a_rate_of_zero_and_frozen_units_drop_nothing():
    silent = tiny_stage("vit_cls", dropout_rules=((".*", 0.0),))
    np.testing.assert_array_equal(*outputs(silent, "block_1"))
    frozen = tiny_stage("bert_mean", method="probe", dropout_rules=(("block_.*", 0.5), ("head/.*", 0.5)))
    np.testing.assert_array_equal(*outputs(frozen, "block_1"))
    assert frozen.notes == (
        "config.dropout_rules: 'block_.*' claims only modules of frozen units, where nothing is dropped",
    )


def test_rules_take_the_first_that_matches_and_say_what_is_wrong():
    stage = tiny_stage("vit_cls", dropout_rules=(("block_0/skip_1", 0.1), ("block_0/.*", 0.2)))
    found = dict(stage.spec.dropout)
    assert found["block_0/skip_1"] == 0.1 and found["block_0/drop_2"] == 0.2
    assert not [path for path in found if not path.startswith("block_0/")]
    with pytest.raises(RuleError, match="config.dropout_rules pattern 'blocks.*' matches no parameter; nearest"):
        tiny_stage("vit_cls", dropout_rules=(("blocks.*", 0.1),))
    with pytest.raises(InputError, match="config.dropout_rules: expected 0 to less than 1 for '.*', found 1.0"):
        resolve(tiny_config("vit_cls", dropout_rules=((".*", 1.0),)))


def test_training_follows_the_rules_and_compiles_with_slices_and_rematerialised_units():
    rules = dict(dropout_rules=(("block_.*/skip_.*", 0.3), ("stem/drop", 0.2)), lr=0.01)
    plain, ruled = (train(tiny_stage("vit_cls", **fields), 3)[1] for fields in ({"lr": 0.01}, rules))
    again = train(tiny_stage("vit_cls", remat=("block_.*",), **rules), 3)[1]
    assert plain != ruled
    np.testing.assert_allclose(again, ruled, rtol=1e-5)


def test_features_are_stored_though_what_reads_them_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path))
    where = placement(ParallelConfig(devices=1))

    def why(rules):
        fields = dict(method="probe", dropout_rules=rules)
        return cut(tiny_stage("mobilenet_v1", **fields), where, resolve(tiny_config("mobilenet_v1", **fields))).why

    assert why(()) == "" and why((("head/drop", 0.5),)) == "", "what enters that module is stored"


def test_dropped_in_low_precision_the_type_stays():
    from jaxfer.models.passes import _dropped

    class Module:
        broadcast_dims, rng_collection = (), "dropout"

        def make_rng(self, name):
            return jax.random.key(0)

    assert _dropped(Module(), 0.5, jnp.ones((4, 4), jnp.bfloat16)).dtype == jnp.bfloat16

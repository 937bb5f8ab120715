"""`config.norms`: which norms follow the batches, what of them is trained, and what a step does to them."""

from __future__ import annotations

import numpy as np
import pytest

from jaxfer.config import resolve
from jaxfer.errors import InputError
from jaxfer.rules import flatten
from tests.experiments import backbone, tiny_config, tiny_stage, train


def norms(stage):
    return stage.spec.port.norms(stage.shapes[1])


def test_by_rule():
    rules = (("stem/.*", "eval"), ("block_0/.*", "stats_only"), (".*", "train"))
    stage = tiny_stage("resnet_basic", method="full", norms=rules)
    trained = {path.rsplit("/", 1)[0] for path in stage.spec.trainable}
    assert stage.spec.eval_norms == {norm for norm in norms(stage) if norm.startswith("stem/")}
    assert {norm for norm in norms(stage) if norm not in trained} == {
        n for n in norms(stage) if n.startswith("block_0")
    }
    assert all(f"{norm}/scale" in stage.spec.trainable for norm in stage.spec.eval_norms)
    plain = tiny_stage("resnet_basic", method="full", norms=((".*", "train"),))
    assert plain.spec.leaves == tiny_stage("resnet_basic", method="full").spec.leaves


def test_in_a_frozen_backbone_the_statistics_alone_move():
    stage = tiny_stage("resnet_basic", method="probe", norms=(("stem/.*", "eval"), (".*", "stats_only")))
    assert stage.spec.eval_norms == {norm for norm in norms(stage) if norm.startswith("stem/")}
    assert set(stage.spec.trainable) == {"head/out/kernel", "head/out/bias"}
    params, statistics = map(flatten, backbone(stage))
    state, _ = train(stage, 2)
    for path, leaf in flatten(state.params).items():
        assert path in stage.spec.trainable or np.array_equal(leaf, params[path]), path
    for path, leaf in flatten(state.model_state).items():
        assert np.array_equal(leaf, statistics[path]) == ("/stem/" in path), path


def test_unset_it_is_no_part_of_a_record():
    stage = resolve(tiny_config("resnet_basic")).stages[0][1]
    assert "norms" not in stage.to_dict()
    ruled = resolve(tiny_config("resnet_basic", norms=((".*", "eval"),))).stages[0][1]
    assert ruled.to_dict()["norms"] == ((".*", "eval"),)


def test_refused():
    with pytest.raises(
        InputError, match="config.norms: expected one of eval, stats_only, train for '.*', found 'evil'"
    ):
        resolve(tiny_config("resnet_basic", norms=((".*", "evil"),)))
    with pytest.raises(
        InputError, match="config.norms rule '.*' matches no parameter; this model has none of that kind"
    ):
        tiny_stage("vit_cls", norms=((".*", "eval"),))
    with pytest.raises(InputError, match="everything is frozen"):
        tiny_stage("resnet_basic", freeze=(".*(kernel|bias)",), norms=((".*", "stats_only"),))

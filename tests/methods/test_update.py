"""A method's `update`: what it makes of a batch that several devices hold."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxfer.conformance import methods
from tests.experiments import batches, tiny_stage, train


def test_what_update_makes_of_a_batch_is_the_same_under_pmap():
    """A method that keeps a mean of its labels: pmap's devices see a quarter of them each."""

    def mean_label(ctx, extra):
        return {"label": ctx.batch["label"].astype("float32").mean(), "kept": extra["kept"]}

    stage = tiny_stage("resnet_basic", optimizer="sgd")
    method = dataclasses.replace(
        stage.spec.method,
        init=lambda params, key, given: (params, {"label": np.float32(0), "kept": np.float32(1 / 3)}),
        update=mean_label,
    )
    stage = dataclasses.replace(stage, spec=dataclasses.replace(stage.spec, method=method))
    wanted = batches(stage, 2)[-1]["label"].mean()
    for mode, devices in methods.PLACEMENTS:
        state, _ = train(stage, 2, mode=mode, devices=devices)
        assert float(state.extra["label"]) == np.float32(wanted) and float(state.extra["kept"]) == np.float32(1 / 3)

"""Batch spectral shrinkage: the penalty by hand, through the tap of what the output layer reads."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.methods import bss
from jaxfer.models.port import FEATURES
from tests.experiments import backbone, batches, tiny_stage, train


def test_the_reference_value():
    """TLlib's penalty of 8 x 5 features, by a singular value decomposition there; either way round."""
    features = np.random.RandomState(0).randn(8, 5)
    with jax.enable_x64(True):
        found = [float(bss.shrinkage(jnp.asarray(x))) for x in (features, features.T)]
    assert found == [pytest.approx(1.6793324587, abs=1e-9)] * 2


@pytest.mark.parametrize("smallest", [1, 3])
def test_penalty_by_hand(smallest):
    """The first loss is the task's, plus eta times the squares of the smallest singular values of the features."""
    stage = tiny_stage("vit_cls", method="bss", options={"eta": 0.5, "smallest": smallest}, lr=0.0)
    plain, (batch,), (params, _) = tiny_stage("vit_cls", method="full", lr=0.0), batches(stage, 1), backbone(stage)
    passed = jax.jit(lambda: stage.spec.port.forward(params, {}, batch, taps=(FEATURES,)))()
    spectrum = np.linalg.svd(np.asarray(passed.taps[FEATURES], np.float64), compute_uv=False)
    wanted = train(plain, 1)[1][0] + 0.5 * np.square(np.sort(spectrum)[:smallest]).sum()
    assert train(stage, 1)[1][0] == pytest.approx(wanted, rel=1e-5)


def test_the_loss_of_a_whole_batch_has_no_slices():
    with pytest.raises(InputError, match="config.accumulate: the loss of method 'bss' is of the batch as a whole"):
        tiny_stage("vit_cls", method="bss", accumulate=2)
    with pytest.raises(InputError, match="expected smallest >= 1 singular values, found 0"):
        tiny_stage("vit_cls", method="bss", options={"smallest": 0})

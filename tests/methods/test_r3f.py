"""R3F: the divergence by hand, its size under noise, and what refuses it."""

from __future__ import annotations

import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.methods import r3f
from tests.experiments import tiny_stage, train


def test_divergence_by_hand():
    one, other = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    p, q = (np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(1, keepdims=True) for x in (one, other))
    wanted = ((p * np.log(p / q)).sum(1) + (q * np.log(q / p)).sum(1)).mean()
    assert float(r3f.divergence(one, other)) == pytest.approx(wanted, rel=1e-5)
    assert float(r3f.divergence(one, one)) == 0


def test_the_second_pass_differs_by_the_noise_alone():
    """Without noise or dropout both are the same pass; noise raises the loss, and none draws in evaluation."""
    plain = train(tiny_stage("bert_mean", lr=0.0), 1)[1]
    silent = train(tiny_stage("bert_mean", adds=("r3f",), options={"noise": 0.0}, lr=0.0), 1)[1]
    loud = train(tiny_stage("bert_mean", adds=("r3f",), options={"noise": 0.3, "r3f_weight": 2.0}, lr=0.0), 1)[1]
    assert silent == plain
    assert 1e-3 < loud[0] - plain[0] < 1


def test_what_is_refused():
    with pytest.raises(InputError, match="add-on r3f adds noise to embedded tokens, the model reads images and has no"):
        tiny_stage("vit_cls", adds=("r3f",))
    with pytest.raises(InputError, match="options.noise: expected at least 0, found -1.0"):
        tiny_stage("bert_mean", adds=("r3f",), options={"noise": -1.0})

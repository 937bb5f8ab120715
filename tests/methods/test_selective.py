"""BitFit (arXiv:2106.10199) and norm tuning: which parameters are trained, and how many."""

from __future__ import annotations

import re

import pytest

from jaxfer.conformance import KINDS
from jaxfer.errors import InputError
from jaxfer.rules import flatten
from tests.experiments import tiny_stage
from tests.methods.added import added


def trained(method, case, group):
    return {path for path, leaf in tiny_stage(case, method=method).spec.trainable.items() if leaf.group == group}


@pytest.mark.parametrize("case", KINDS)
def test_biases(case):
    leaves = flatten(tiny_stage(case).shapes[0])
    biases = {path for path in leaves if path.endswith("/bias") and not path.startswith("head/out/")}
    assert trained("bitfit", case, "bias") == biases


@pytest.mark.parametrize("case", [*KINDS, "convnext_v2", "swin_v2", "wav2vec2", "ft_transformer", "deberta"])
def test_norms(case):
    """By their names, which all say so, but for the response norm of ConvNeXt."""
    leaves = flatten(tiny_stage(case).shapes[0])
    norms = {path for path in leaves if any(re.match("norm|out_norm|grn", part) for part in path.split("/")[1:-1])}
    assert trained("norm_tuning", case, "norm") == norms


@pytest.mark.parametrize(
    "method,model,count",
    [
        ("bitfit", "roberta", 102_144),
        ("norm_tuning", "roberta", 38_400),
        ("bitfit", "vit", 102_912),
        ("norm_tuning", "vit", 38_400),
    ],
)
def test_counts(method, model, count):
    """Of base size; the dense layer of RoBERTa's head is not counted."""
    extra = 768 if (method, model) == ("bitfit", "roberta") else 0
    assert added(method, model) == count + extra


def test_models_without_any():
    with pytest.raises(InputError, match="bitfit: the model has no biases before its output layer"):
        tiny_stage("t5", method="bitfit")
    with pytest.raises(InputError, match="norm_tuning: the model has no norms"):
        tiny_stage("alexnet", method="norm_tuning")

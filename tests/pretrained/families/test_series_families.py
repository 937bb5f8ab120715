"""PatchTST's layout: both heads, what config.json says, and what is refused."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.layout import convert, store
from jaxfer.registry import MODELS
from tests.models.tiny import draw

SMALL = dict(length=11, channels=2, patch=4, stride=3, width=6, layers=2, heads=2, mlp_width=8)
CASES = {
    "usual": SMALL,
    "other": dict(SMALL, norm="layer", order="post", positions="learned", pool="cls", scaling="mean", shared=False),
    "flat": dict(SMALL, pool="flatten", scaling="none", mixing=True, mlp_bias=False, activation="relu"),
}
LAYOUT = by_family("patchtst", "hf")
LABELS = ("cat", "dog", "eel")


@pytest.mark.parametrize("head", ["pooled", "forecast"])
@pytest.mark.parametrize("case", CASES)
def test_stored_and_read_again_is_the_same_model(case, head):
    port = MODELS.make("patchtst", outputs=3, head=head, **CASES[case])
    params, state = draw(port)
    shapes = rules.flatten({"params": params, **state})
    found = convert(store(params, state, LAYOUT, port), LAYOUT, port, shapes)
    assert not found.fresh
    jax.tree.map(np.testing.assert_array_equal, (found.params, found.model_state), (params, state))
    if (case, head) != ("flat", "pooled"):
        config = LAYOUT.config(port, {}, () if head == "forecast" else LABELS)
        again = MODELS.make("patchtst", outputs=3, head=head, **LAYOUT.options(config, {}, {}))
        assert again.options == port.options


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"norm_type": "rms"}, "norm_type"),
        ({"pooling_type": "last"}, "pooling_type"),
        ({"minimum_scale": 1e-3}, "minimum_scale"),
        ({"architectures": ["PatchTSTForPrediction"], "loss": "nll"}, "loss='nll' is a head that gives a distribution"),
        ({"architectures": ["PatchTSTForPrediction"], "share_projection": False}, "share_projection"),
        ({"architectures": ["PatchTSTForRegression"], "output_range": [0, 1]}, "output_range"),
    ],
)
def test_a_config_that_the_model_has_no_word_for_is_refused(field, message):
    with pytest.raises(InputError, match=message):
        LAYOUT.options({"model_type": "patchtst", **field}, {}, {})


@pytest.mark.parametrize(
    ("options", "labels", "message"),
    [
        (CASES["flat"], LABELS, "pool='flatten'"),
        (SMALL, (), "one number an example"),
        (dict(SMALL, normalize="each"), LABELS, "normalize='each'"),
    ],
)
def test_an_export_that_transformers_could_not_compute_is_refused(options, labels, message):
    with pytest.raises(InputError, match=message):
        LAYOUT.config(MODELS.make("patchtst", outputs=3, **options), {}, labels)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"heads": 4}, "multiple of the heads"), ({"patch": 11}, "shorter"), ({"width": 15, "heads": 3}, "even")],
)
def test_options_that_do_not_go_together_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        MODELS.make("patchtst", outputs=3, **{**SMALL, **wrong})


def test_a_forecast_needs_the_series_as_they_are():
    with pytest.raises(InputError, match="normalize='none'"):
        MODELS.make("patchtst", outputs=3, head="forecast", normalize="each", **SMALL)

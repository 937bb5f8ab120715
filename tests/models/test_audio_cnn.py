"""What audio_cnn adds to the properties of every model: loudness, gaps in the spectrum, sides that are not pooled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.conformance import tiny
from jaxfer.conformance.models import training
from jaxfer.errors import InputError
from jaxfer.registry import MODELS


def test_a_louder_recording_gives_the_same_outputs():
    port = tiny.make("audio_cnn")
    params, model_state = tiny.draw(port)
    inputs = tiny.batch(port)
    outputs, _ = port.apply(params, model_state, inputs)
    louder, _ = port.apply(params, model_state, {"audio": inputs["audio"] + 0.5})
    np.testing.assert_allclose(louder, outputs, atol=1e-5)


def test_whole_bins_are_dropped_and_only_in_training():
    port = tiny.make("audio_cnn", bin_dropout=0.5)
    params, model_state = tiny.draw(port)
    inputs = tiny.batch(port)
    evaluated, _ = port.apply(params, model_state, inputs, end="stem")
    live = training(port, live=port.units, eval_norms=port.norms(model_state))
    trained, _ = port.apply(params, model_state, inputs, training=live, end="stem")
    gone = np.asarray(trained == 0)
    assert not (evaluated == 0).any() and 0 < gone.mean() < 1
    np.testing.assert_array_equal(gone.all(1), gone.any(1))
    np.testing.assert_allclose(trained[~gone], 2 * evaluated[~gone], rtol=1e-6)


def test_a_side_of_one_is_not_pooled():
    port = MODELS.make("audio_cnn", outputs=2, widths=(2,) * 5, rate=8000, seconds=0.4, mels=5)  # 40 frames
    params, model_state = tiny.draw(port)
    hidden, _ = port.apply(params, model_state, tiny.batch(port, 1), end="block_4")
    assert hidden.shape == (1, 1, 1, 2)
    assert jax.eval_shape(port.init, jax.random.key(0), tiny.batch(port, 1)) is not None
    outputs, _ = port.apply(params, model_state, {"audio": hidden}, begin="head")
    out = params["head"]["out"]
    np.testing.assert_allclose(outputs[0], 2 * jnp.ravel(hidden) @ out["kernel"] + out["bias"], rtol=1e-5)


def test_widths_that_are_no_widths():
    with pytest.raises(InputError, match=r"widths must be a tuple of at least one width, found \(\); give e.g."):
        MODELS.make("audio_cnn", outputs=2, widths=())
    with pytest.raises(InputError, match=r"widths\[1\] must be a positive integer, found 0"):
        MODELS.make("audio_cnn", outputs=2, widths=(4, 0))
    with pytest.raises(InputError, match=r"bin_dropout must be a drop rate in \[0, 1\), found 1"):
        MODELS.make("audio_cnn", outputs=2, bin_dropout=1)

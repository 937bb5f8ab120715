"""AST: options from the files' own facts, refusals, what export writes, positions for other inputs."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.pretrained import stated
from jaxfer.pretrained.families import by_model_type
from jaxfer.pretrained.surgery import cut_or_stretched
from jaxfer.registry import MODELS

AST = by_model_type("audio-spectrogram-transformer")
SMALL = dict(
    hidden_size=12,
    num_hidden_layers=1,
    num_attention_heads=3,
    intermediate_size=20,
    patch_size=4,
    frequency_stride=3,
    time_stride=2,
    max_length=13,
    num_mel_bins=11,
)
HEARD = dict(feature_extractor_type="ASTFeatureExtractor", num_mel_bins=11, max_length=13, mean=-6.5, std=5.5)


def port_of(layout, config, preprocessor, outputs=2):
    return MODELS.make(layout.family, outputs=outputs, **layout.options(config, preprocessor, {}))


@pytest.mark.parametrize("preprocessor", [{}, HEARD, {**HEARD, "do_normalize": False}])
def test_what_ast_export_writes_is_read_back(preprocessor):
    port = port_of(AST, SMALL, preprocessor)
    written = AST.config(port, {}, ("a", "b")), AST.preprocessor(port)
    assert port_of(AST, *written) == port
    encoding = port.encoding
    normal = {(): (-4.2677393, 4.5689974), 7: (0.0, 0.5), 6: (-6.5, 5.5)}
    expected = normal[() if not preprocessor else 7 if "do_normalize" in preprocessor else 6]
    assert (encoding.log_mean, encoding.log_std) == expected and (encoding.frames, encoding.mels) == (13, 11)
    assert port.options.grid == (3, 5)


@pytest.mark.parametrize(
    ("config", "preprocessor", "message"),
    [
        (dict(SMALL, hidden_act="relu"), {}, "config.json: hidden_act is 'relu'; jaxfer reads this family with"),
        (dict(SMALL, patch_size=[4, 3]), {}, "expected square patches, found patch_size=[4, 3]"),
        (SMALL, dict(HEARD, max_length=20), "preprocessor_config.json has max_length=20, config.json 13; correct one"),
        (SMALL, dict(HEARD, num_mel_bins=20), "preprocessor_config.json has num_mel_bins=20, config.json 11; correct"),
        (SMALL, dict(HEARD, sampling_rate=8000), "expected sampling_rate=16000, found 8000, which is not supported"),
        (SMALL, dict(HEARD, feature_extractor_type="Whisper"), "expected an ASTFeatureExtractor, found Whisper"),
        (dict(SMALL, max_length=3), {}, "frames must be at least a patch of 4, found 3"),
    ],
)
def test_what_ast_does_not_have_is_refused(config, preprocessor, message):
    with pytest.raises(InputError, match=re.escape(message)):
        port_of(AST, config, preprocessor)


def test_positions_are_cut_in_the_middle_and_stretched_bilinearly():
    grid = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    extra = np.full((1, 2, 2), 9, np.float32)
    tokens = np.concatenate([extra, grid.reshape(1, -1, 2)], 1)

    def changed(*new):
        found = cut_or_stretched(tokens, (3, 5), new, extra=2)
        assert found.dtype == np.float32 and np.array_equal(found[:, :2], extra)
        return found[0, 2:].reshape(*new, 2)

    np.testing.assert_array_equal(changed(3, 5), grid)
    np.testing.assert_array_equal(changed(2, 4), grid[0:2, 0:4])  # from 3 // 2 - 2 // 2, and from 5 // 2 - 4 // 2
    np.testing.assert_array_equal(changed(3, 1), grid[:, 2:3])
    np.testing.assert_allclose(changed(7, 11), jax.image.resize(grid, (7, 11, 2), "bilinear"), atol=1e-6)
    np.testing.assert_allclose(changed(2, 11), jax.image.resize(grid[:2], (2, 11, 2), "bilinear"), atol=1e-6)
    with pytest.raises(InputError, match=r"expected position embeddings \[1, 2 \+ 4 \* 5, channels\], found"):
        cut_or_stretched(tokens, (4, 5), (3, 5), extra=2)


def test_positions_of_the_layout_follow_the_strides():
    port = MODELS.make("ast", outputs=2, **{**AST.options(SMALL, {}, {}), "frames": 9})
    change = AST.resized(AST.options(SMALL, {}, {}), port)["params/stem/pos"]
    assert port.options.grid == (3, 3) and change(np.zeros((1, 2 + 15, 12), np.float32)).shape == (1, 2 + 9, 12)


def test_audio_classifiers_have_a_head_of_whole_inputs():
    assert stated.other_head({"architectures": ["ASTForAudioClassification"]}) is None
    assert stated.other_head({"architectures": ["Wav2Vec2ForCTC"]}) == "Wav2Vec2ForCTC"

"""AST, wav2vec 2.0, HuBERT: options from the files, refusals, what export writes, positions for other inputs."""

from __future__ import annotations

import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxfer
from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.pretrained import stated
from jaxfer.pretrained.families import by_model_type
from jaxfer.pretrained.layout import convert, store
from jaxfer.pretrained.surgery import cut_or_stretched
from jaxfer.registry import MODELS
from tests.experiments import tiny_config
from tests.models.tiny import draw

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


WAV2VEC2 = by_model_type("wav2vec2")
BASE = dict(
    model_type="wav2vec2",
    hidden_size=12,
    num_hidden_layers=1,
    num_attention_heads=3,
    intermediate_size=20,
    conv_dim=[3, 4],
    conv_kernel=[4, 3],
    conv_stride=[3, 2],
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
    classifier_proj_size=5,
)
STABLE = dict(BASE, do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True, hidden_act="relu")
EXTRACTOR = dict(feature_extractor_type="Wav2Vec2FeatureExtractor", do_normalize=False, return_attention_mask=True)


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("preprocessor", [{}, EXTRACTOR, dict(EXTRACTOR, return_attention_mask=False)])
@pytest.mark.parametrize(
    "config",
    [
        BASE,
        STABLE,
        dict(BASE, use_weighted_layer_sum=True),
        dict(BASE, model_type="hubert", feat_proj_layer_norm=False),
        dict(BASE, hidden_dropout=0.0, num_conv_pos_embeddings=5),
    ],
)
def test_what_wav2vec2_export_writes_is_read_back(config, preprocessor, projected):
    shapes = {"projector.weight": (5, 12)} if projected else {}
    port = MODELS.make("wav2vec2", outputs=2, **WAV2VEC2.options(config, preprocessor, shapes))
    assert port.options.projection == (5 if projected else 0)
    assert port.encoding.masked == preprocessor.get("return_attention_mask", config is STABLE)
    assert port.encoding.normalize == (not preprocessor)
    params, state = draw(port)
    shapes = {key: x.shape for key, x in store(params, state, WAV2VEC2, port).items()}
    assert shapes["projector.weight"] == (5 if projected else 12, 12)
    written = WAV2VEC2.config(port, {}, ("a", "b")), WAV2VEC2.preprocessor(port)
    assert MODELS.make("wav2vec2", outputs=2, **WAV2VEC2.options(*written, shapes)) == port


def test_lengths_and_directions_of_the_positions_have_two_names():
    port = MODELS.make("wav2vec2", outputs=2, **WAV2VEC2.options(BASE, {}, {}))
    params, state = draw(port)
    stored = store(params, state, WAV2VEC2, port)
    assert {x.shape for key, x in stored.items() if key.endswith(("weight_g", "weight_v"))} == {(1, 1, 4), (12, 6, 4)}
    inside = "parametrizations.weight.original"
    new = {key.replace("weight_g", f"{inside}0").replace("weight_v", f"{inside}1"): x for key, x in stored.items()}
    assert len(set(new) - set(stored)) == 2
    shapes = rules.flatten({"params": params, **state})
    for names in (stored, new, {key.removeprefix("wav2vec2."): x for key, x in new.items()}):
        pretrained = {**names, "quantizer.codevectors": np.zeros(3), "wav2vec2.masked_spec_embed": np.zeros(12)}
        found = convert(pretrained, WAV2VEC2, port, shapes)
        assert not found.fresh and jax.tree.all(jax.tree.map(np.array_equal, found.params, params))


def test_a_layer_that_is_no_identity_is_told():
    port = MODELS.make("wav2vec2", outputs=2, **WAV2VEC2.options(BASE, {}, {}))
    params, state = draw(port)
    stored = store(params, state, WAV2VEC2, port)
    stored["projector.bias"] = stored["projector.bias"] + 1
    with pytest.raises(InputError, match=r"projector\.bias is no constant of this model"):
        convert(stored, WAV2VEC2, port, rules.flatten({"params": params, **state}))


@pytest.mark.parametrize(
    ("config", "preprocessor", "message"),
    [
        (dict(BASE, feat_extract_activation="relu"), {}, "feat_extract_activation is 'relu'; jaxfer reads this"),
        (dict(BASE, conv_pos_batch_norm=True), {}, "conv_pos_batch_norm is True; jaxfer reads this family with"),
        (dict(BASE, add_adapter=True), {}, "add_adapter is True; jaxfer reads this family with add_adapter=False"),
        (dict(BASE, adapter_attn_dim=16), {}, "adapter_attn_dim is 16; jaxfer reads this family with"),
        (dict(STABLE, use_weighted_layer_sum=True), {}, "use_weighted_layer_sum=true with do_stable_layer_norm=true"),
        (BASE, dict(EXTRACTOR, padding_side="left"), "expected padding_side='right', found 'left', which is not"),
        (dict(BASE, conv_dim=[3]), {}, "widths, windows and steps must be of the same convolutions, found 1, 2 and 2"),
        (dict(BASE, num_conv_pos_embedding_groups=5), {}, "groups must divide the width, found width=12 and groups=5"),
    ],
)
def test_what_wav2vec2_does_not_have_is_refused(config, preprocessor, message):
    with pytest.raises(InputError, match=re.escape(message)):
        port_of(WAV2VEC2, config, preprocessor)


def test_a_sound_without_a_place_is_refused():
    with pytest.raises(InputError, match=r"seconds must give the convolutions a place at least, found 0.01"):
        MODELS.make("wav2vec2", outputs=2, seconds=0.01)


@pytest.mark.parametrize(
    ("layout", "config", "head"),
    [
        (AST, SMALL, {"params/head/out_norm/scale", "params/head/out_norm/bias"}),
        (WAV2VEC2, dict(BASE, use_weighted_layer_sum=True), {"params/head/layer_weights"}),
    ],
)
def test_a_bare_network_gets_the_rest_of_its_head(layout, config, head, tmp_path):
    port = port_of(layout, config, {})
    stored = store(*draw(port), layout, port)
    bare = {key: x for key, x in stored.items() if not re.match(r"classifier|projector|layer_weights", key)}
    save_file({key: np.asarray(x, order="C") for key, x in bare.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": layout.model_types[0], **config}))
    run = tiny_config("audio_cnn", init=str(tmp_path), method="probe", steps=1)
    run.model = dict(name="auto", **({"seconds": 0.02} if layout is WAV2VEC2 else {}))
    jaxfer.run(run, tmp_path / "run", quiet=True)
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())["leaves"]
    anew = {leaf for leaf, entry in ledger.items() if entry["from"] is None}
    assert anew == head | {"params/head/out/kernel", "params/head/out/bias"}
    assert {ledger[leaf]["why"] for leaf in anew} == {"the source has none"}

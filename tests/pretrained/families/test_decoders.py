"""Causal decoders: key tables, options from config.json, what export writes, and what is refused."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.pretrained.families import by_model_type
from jaxfer.pretrained.layout import convert, store
from jaxfer.registry import MODELS
from tests.models.tiny import draw

SMALL = dict(vocab=23, width=12, layers=3, heads=2, mlp_width=20, positions=9, max_length=9)
GROUPED = dict(SMALL, key_heads=1, theta=500.0)
LOCAL = dict(window=3, windowed=(0, 2))
GEMMA = dict(GROUPED, norm="rms_1p", embedding_scale=True, activation="gelu_pytorch_tanh")

# {case: (model_type, options)}
CASES = {
    "llama": ("llama", GROUPED),
    "llama_scaled": ("llama", dict(GROUPED, rope_llama3=(8.0, 1.0, 4.0, 5.0), tied=False, pad=3)),
    "llama_biases": ("llama", dict(GROUPED, qkv_bias=True, bias=True, rope_factor=2.0, head_width=8)),
    "mistral": ("mistral", dict(GROUPED, window=3, windowed=(0, 1, 2))),
    "qwen2": ("qwen2", dict(GROUPED, qkv_bias=True)),
    "qwen3": ("qwen3", dict(GROUPED, qk_norm=True, head_width=4, **LOCAL)),
    "gemma": ("gemma", GEMMA),
    "gemma3": ("gemma3_text", dict(GEMMA, order="sandwich", qk_norm=True, score_width=7, local_theta=10.0, **LOCAL)),
    "gpt2": ("gpt2", dict(SMALL, pad=3)),
}
LLAMA = dict(
    **dict(model_type="llama", vocab_size=23, hidden_size=12, num_hidden_layers=2, num_attention_heads=2),
    **dict(intermediate_size=20),
)


def make(case, head="pooled"):
    kind, options = CASES[case]
    layout = by_model_type(kind)
    return layout, MODELS.make(layout.family, outputs=3, head=head, **options)


@pytest.mark.parametrize("head", ["pooled", "token", "next", "embedding"])
@pytest.mark.parametrize("case", CASES)
def test_stored_and_read_again_is_bitwise_the_same(case, head):
    layout, port = make(case, head)
    params, state = draw(port)
    shapes = rules.flatten({"params": params, **state})
    found = convert(store(params, state, layout, port), layout, port, shapes)
    assert not found.fresh and not found.unused
    jax.tree.map(np.testing.assert_array_equal, found.params, params)


@pytest.mark.parametrize("case", CASES)
def test_what_export_writes_reads_as_the_same_model(case):
    layout, port = make(case)
    config = layout.config(port, {}, ["cat", "dog", "eel"])
    assert config["model_type"] == CASES[case][0] and config["id2label"]["2"] == "eel"
    assert MODELS.make(layout.family, outputs=3, **layout.options(config, {}, {})) == port


def test_three_leaves_of_one_tensor():
    layout, port = make("gpt2")
    params, state = draw(port)
    stored = store(params, state, layout, port)
    name = "transformer.h.1.attn.c_attn"
    assert stored[f"{name}.weight"].shape == (12, 36) and stored[f"{name}.bias"].shape == (36,)
    value = np.asarray(params["block_1"]["attn"]["value"]["kernel"])
    np.testing.assert_array_equal(stored[f"{name}.weight"][:, 24:], value.reshape(12, 12))
    odd = {**stored, f"{name}.weight": stored[f"{name}.weight"][:, :35]}
    with pytest.raises(InputError, match=r"c_attn.weight \(12, 35\) for params/block_1/attn/query/kernel"):
        convert(odd, layout, port, rules.flatten({"params": params, **state}))


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, dict(key_heads=2, theta=10000.0, tied=False, positions=2048, pad=0)),
        (dict(rope_theta=5e5, eos_token_id=[4, 5], tie_word_embeddings=True), dict(theta=5e5, pad=4, tied=True)),
        (dict(rope_scaling={"type": "linear", "factor": 2}), dict(rope_factor=2.0)),
        (dict(rope_parameters={"rope_type": "default", "rope_theta": 7.0}), dict(theta=7.0)),
        (dict(model_type="qwen2", max_window_layers=1), dict(key_heads=32, qkv_bias=True)),
        (dict(model_type="qwen2", use_sliding_window=True, max_window_layers=1), dict(window=4096, windowed=(1,))),
        (
            dict(model_type="gemma3_text", sliding_window_pattern=2, rope_scaling={"rope_type": "linear", "factor": 8}),
            dict(windowed=(0,), rope_factor=8.0, local_theta=10000.0, theta=1e6, score_width=256, head_width=256),
        ),
        (dict(model_type="gemma", hidden_act="gelu"), dict(activation="gelu_pytorch_tanh", norm="rms_1p")),
    ],
)
def test_options_of_a_config(fields, found):
    config = {**LLAMA, **fields}
    options = by_model_type(config["model_type"]).options(config, {}, {})
    assert {name: options[name] for name in found} == found and options["max_length"] == 128
    assert "windowed" not in options or options["windowed"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(rope_scaling={"rope_type": "yarn", "factor": 4.0}), "rope_type 'yarn' is not supported"),
        (dict(partial_rotary_factor=0.5), "expected partial_rotary_factor 1.0, found 0.5"),
        (dict(attention_bias=True), "attention_bias=True and mlp_bias=False differ"),
        (dict(model_type="gemma", use_bidirectional_attention=True), "expected use_bidirectional_attention False"),
        (dict(model_type="gpt2"), "config.json of a GPT-2 needs vocab_size, n_embd, n_layer, n_head; n_embd is"),
    ],
)
def test_what_is_not_computed_is_refused(fields, message):
    config = {**LLAMA, **fields}
    with pytest.raises(InputError, match=message):
        by_model_type(config["model_type"]).options(config, {}, {})


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        ("llama", dict(pool="mean"), "transformers has no classifier with pool='mean'"),
        ("llama", dict(bias=True), "transformers has no decoder with .*biases='others alone'"),
        ("llama", dict(score_width=3), "transformers has no decoder"),
    ],
)
def test_what_no_class_computes_is_not_exported(case, options, message):
    layout = by_model_type(CASES[case][0])
    port = MODELS.make("decoder", outputs=3, **{**CASES[case][1], **options})
    with pytest.raises(InputError, match=message):
        layout.config(port, {}, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(heads=5), "heads must divide the width"),
        (dict(heads=4), "a head must have an even number of channels"),
        (dict(key_heads=3), "key_heads must divide the heads"),
        (dict(rope_llama3=(8.0, 4.0, 1.0, 5.0)), "rope_llama3 must be"),
        (dict(rope_llama3=(8.0, 1.0, 4.0, 5.0), rope_factor=2.0), "scale the same positions"),
        (dict(windowed=(3,), window=2), "windowed must be layers below 3"),
        (dict(window=2), "name these as windowed"),
        (dict(pad=23), "pad must be a token below vocab=23"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        MODELS.make("decoder", outputs=3, **{**GROUPED, **options})

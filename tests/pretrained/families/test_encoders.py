"""Encoders of texts: key tables, options from config.json, what export writes, and what is refused."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from jaxfer import json_files, rules
from jaxfer.errors import InputError
from jaxfer.pretrained.families import by_model_type
from jaxfer.pretrained.layout import convert, store
from jaxfer.registry import MODELS
from tests.models.tiny import draw

SMALL = dict(vocab=23, width=12, layers=3, heads=3, mlp_width=20, positions=9, max_length=9)
BIASES = dict.fromkeys(("bias", "norm_bias", "classifier_bias"), True)
PLACES = dict(position_biased=True, types=2, conv=3, norm_distances=False, share_att_key=False, position_buckets=0)

# {case: (model_type, options)}
CASES = {
    "bert": ("bert", SMALL),
    "distilbert": ("distilbert", SMALL),
    "roberta": ("roberta", dict(SMALL, epsilon=1e-3)),
    "xlm-roberta": ("xlm-roberta", dict(SMALL, kind="xlm-roberta")),
    "camembert": ("camembert", dict(SMALL, kind="camembert", types=2)),
    "electra": ("electra", dict(SMALL, embedding_width=8, classifier_dropout=0.25)),
    "electra_equal": ("electra", dict(SMALL, embedding_width=12)),
    "mpnet": ("mpnet", dict(SMALL, activation="relu")),
    "albert": ("albert", dict(SMALL, embedding_width=8)),
    "modernbert": ("modernbert", dict(SMALL, global_every=2, window=4, theta=50.0, classifier_pooling="mean")),
    "modernbert_biases": ("modernbert", dict(SMALL, **BIASES, decoder_bias=False, mlp_dropout=0.25)),
    "deberta": ("deberta-v2", dict(SMALL, position_buckets=4)),
    "deberta_apart": ("deberta-v2", dict(SMALL, **PLACES, p2c=False, max_distance=5, pooler_activation="relu")),
}
# The key of a decoder that repeats the word embedding.
TIED = {
    "bert": "cls.predictions.decoder.weight",
    "distilbert": "vocab_projector.weight",
    "roberta": "lm_head.decoder.weight",
    "electra_equal": "generator_lm_head.weight",
    "mpnet": "lm_head.decoder.weight",
    "albert": "predictions.decoder.weight",
    "modernbert": "decoder.weight",
    "deberta": "cls.predictions.decoder.weight",
}


def make(case, head="pooled", **changes):
    kind, options = CASES[case]
    layout = by_model_type(kind)
    return layout, MODELS.make(layout.family, outputs=3, head=head, **{**options, **changes})


def read(layout, config, shapes=()):
    """The options of a config.json, whose fields have the types that the layout states."""
    config = json.loads(json.dumps(config))
    json_files.check(config, layout.facts, "config.json", fix="correct it")
    return layout.options(config, {}, dict.fromkeys(shapes, ()))


def shapes_of(port):
    params, state = jax.eval_shape(port.init, jax.random.key(0), port.example(2))
    return rules.flatten({"params": params, **state})


@pytest.mark.parametrize("head", ["pooled", "token", "vocab", "embedding"])
@pytest.mark.parametrize("case", CASES)
def test_stored_and_read_again_is_bitwise_the_same(case, head):
    layout, port = make(case, head)
    params, state = draw(port)
    found = convert(store(params, state, layout, port), layout, port, shapes_of(port))
    assert not found.fresh and not found.unused
    jax.tree.map(np.testing.assert_array_equal, found.params, params)


@pytest.mark.parametrize("case", CASES)
def test_what_export_writes_reads_as_the_same_model(case):
    layout, port = make(case)
    config = layout.config(port, {}, ["cat", "dog", "eel"])
    assert config["model_type"] == CASES[case][0] and config["id2label"]["2"] == "eel"
    tensors = store(*draw(port), layout, port)
    assert MODELS.make(layout.family, outputs=3, **read(layout, config, tensors)) == port


@pytest.mark.parametrize("case", CASES)
def test_a_bare_encoder_is_read_with_and_without_the_prefix(case):
    layout, port = make(case, "embedding", pool="mean")
    params, state = draw(port)
    stored = store(params, state, layout, port)
    config, constants = layout.encoder(port)
    assert config["architectures"][0].endswith("Model") and set(constants).isdisjoint(stored)
    root = {key.removeprefix(layout.prefixes[0]): value for key, value in stored.items()}
    found = convert({**root, **constants}, layout, port, shapes_of(port))
    assert not found.fresh and set(found.unused) == set(constants)
    jax.tree.map(np.testing.assert_array_equal, found.params, params)


@pytest.mark.parametrize("case", TIED)
def test_a_decoder_that_differs_from_the_word_embedding_is_refused(case):
    layout, port = make(case, "vocab")
    params, state = draw(port)
    stored, key, shapes = store(params, state, layout, port), TIED[case], shapes_of(port)
    word = next(name.name for leaf, name in layout.keys(port).items() if leaf.endswith("stem/word/embedding"))
    same = convert({**stored, key: stored[word].copy()}, layout, port, shapes)
    assert same.unused == (key,)
    differs = {**stored, key: stored[word] + 1}
    message = f"theirs: {key} and {word} differ, and the model ties them; set config.head=reset"
    with pytest.raises(InputError) as error:
        convert(differs, layout, port, shapes, source="theirs")
    assert message in str(error.value)
    # A new head, and one for another task, don't read theirs.
    head = [leaf for leaf in shapes if leaf.startswith(f"params/{port.head}/")]
    assert set(convert(differs, layout, port, shapes, reset=head).fresh) == set(head)
    layout, port = make(case, "pooled")
    classifier = {**store(*draw(port), layout, port), key: stored[word] + 1}
    assert convert(classifier, layout, port, shapes_of(port)).unused == (key,)


SIZES = dict(
    **dict(vocab_size=23, hidden_size=12, num_hidden_layers=3, num_attention_heads=3, intermediate_size=20),
    **dict(max_position_embeddings=11),
)
RELATIVE = dict(relative_attention=True, pos_att_type="p2c|c2p")
TYPES = ["full_attention", "sliding_attention", "sliding_attention"]


@pytest.mark.parametrize(
    ("kind", "fields", "found"),
    [
        ("roberta", {}, dict(positions=9, types=2, epsilon=1e-12, kind="roberta", pool="mean", max_length=9)),
        ("roberta", dict(pad_token_id=1, classifier_dropout=0.3), dict(classifier_dropout=0.3)),
        ("electra", {}, dict(positions=11, types=2, embedding_width=128, activation="gelu")),
        ("mpnet", dict(relative_attention_num_buckets=32), dict(positions=9, dropout=0.1)),
        (
            "albert",
            dict(embedding_size=8, num_hidden_groups=1),
            dict(embedding_width=8, dropout=0.0, attention_dropout=None, classifier_dropout=0.1, activation="gelu_new"),
        ),
        ("modernbert", {}, dict(global_every=3, theta=160000.0, local_theta=10000.0, window=128, epsilon=1e-5)),
        (
            "modernbert",
            dict(global_rope_theta=7, local_rope_theta=None, global_attn_every_n_layers=2, classifier_pooling="mean"),
            dict(theta=7.0, local_theta=7.0, global_every=2, classifier_pooling="mean"),
        ),
        (
            "modernbert",
            dict(layer_types=TYPES, rope_parameters={"sliding_attention": {"rope_theta": 3.0}}),
            dict(global_every=3, theta=160000.0, local_theta=3.0),
        ),
        ("modernbert", dict(layer_types=["full_attention"] * 3), dict(global_every=1)),
        (
            "deberta-v2",
            RELATIVE,
            dict(position_buckets=0, max_distance=0, position_biased=True, share_att_key=False, types=0, conv=0),
        ),
        (
            "deberta-v2",
            {
                **RELATIVE,
                **dict(position_buckets=4, norm_rel_ebd="layer_norm", max_relative_positions=7, conv_act="gelu"),
            },
            dict(position_buckets=4, norm_distances=True, max_distance=7, conv_activation="gelu", epsilon=1e-7),
        ),
        ("deberta-v2", {**RELATIVE, "pos_att_type": ["c2p"]}, dict(c2p=True, p2c=False, norm_distances=False)),
    ],
)
def test_options_of_a_config(kind, fields, found):
    layout = by_model_type(kind)
    port = MODELS.make(layout.family, outputs=3, **read(layout, {"model_type": kind, **SIZES, **fields}))
    assert {name: getattr(port.options, name) for name in found} == found


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("roberta", dict(pad_token_id=0), "expected pad_token_id 1, found 0, which is not supported"),
        ("roberta", dict(is_decoder=True), "is_decoder is true; RoBERTa is read as an encoder only"),
        ("electra", dict(position_embedding_type="relative_key"), "expected position_embedding_type 'absolute'"),
        ("mpnet", dict(relative_attention_num_buckets=16), "expected relative_attention_num_buckets 32, found 16"),
        ("albert", dict(num_hidden_groups=2), "expected num_hidden_groups 1, found 2"),
        ("albert", dict(inner_group_num=2), "expected inner_group_num 1, found 2"),
        ("modernbert", dict(attention_bias=True), "attention_bias=True and mlp_bias=False differ"),
        ("modernbert", dict(layer_types=TYPES[::-1]), "expected layer_types with full_attention in every n-th layer"),
        (
            "modernbert",
            dict(rope_parameters={"full_attention": {"rope_type": "yarn"}}),
            "rope_type 'yarn' of full_attention is not supported",
        ),
        ("modernbert", dict(rope_scaling={"type": "linear"}), "rope_type 'linear' of full_attention is not supported"),
        ("deberta-v2", {}, "expected relative_attention true"),
        ("deberta-v2", {**RELATIVE, "embedding_size": 8}, "expected embedding_size 12, found 8"),
        ("deberta-v2", {**RELATIVE, "attention_head_size": 8}, "expected attention_head_size 4, found 8"),
        ("deberta-v2", {**RELATIVE, "conv_groups": 2}, "expected conv_groups 1, found 2"),
        ("deberta-v2", {**RELATIVE, "pos_att_type": "p2p"}, "expected pos_att_type of c2p and p2c, found 'p2p'"),
        ("deberta-v2", {"relative_attention": True}, "expected pos_att_type of c2p and p2c, found None"),
    ],
)
def test_what_is_not_computed_is_refused(kind, fields, message):
    with pytest.raises(InputError) as error:
        read(by_model_type(kind), {"model_type": kind, **SIZES, **fields})
    assert message in str(error.value)


@pytest.mark.parametrize("case", ["roberta", "electra", "mpnet", "albert", "modernbert", "deberta"])
def test_what_no_class_computes_is_not_exported(case):
    layout, port = make(case, pool="max")
    with pytest.raises(InputError, match="has no .* classifier with pool='max'; use --format=sentence-transformers"):
        layout.config(port, {}, ["a", "b", "c"])
    layout, port = make(case, "vocab")
    with pytest.raises(InputError, match="a vocab head is not exported"):
        layout.config(port, {}, [])


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        ("modernbert", dict(heads=4), "a head must have an even number of channels to be turned, found 3"),
        ("modernbert", dict(window=1), "window must be at least 2, a token on each side, found 1"),
        ("deberta", dict(conv=2), "conv must be an odd number of tokens, or 0 for none, found 2"),
        ("deberta", dict(c2p=False, p2c=False), "c2p and p2c are both False"),
        ("deberta", dict(position_buckets=16), "position_buckets must be from 2 to less than twice the distances of 9"),
        ("deberta", dict(types=-1), "types must be a positive integer, or 0 for none, found -1"),
    ],
)
def test_bad_options(case, options, message):
    with pytest.raises(InputError) as error:
        make(case, **options)
    assert message in str(error.value)


def test_parts_of_one_tensor_lie_one_below_the_other():
    layout, port = make("modernbert")
    params, state = draw(port)
    stored = store(params, state, layout, port)
    assert stored["model.layers.1.attn.Wqkv.weight"].shape == (36, 12)
    value = np.asarray(params["block_1"]["attn"]["value"]["kernel"])
    np.testing.assert_array_equal(stored["model.layers.1.attn.Wqkv.weight"][24:].T, value.reshape(12, 12))
    assert stored["model.layers.1.mlp.Wi.weight"].shape == (40, 12)
    np.testing.assert_array_equal(
        stored["model.layers.1.mlp.Wi.weight"][20:].T, params["block_1"]["mlp"]["gate"]["kernel"]
    )
    assert "model.layers.0.attn_norm.weight" not in stored


@pytest.mark.parametrize("name", ["cls.predictions.transform.{}", "lm_predictions.lm_head.{}"])
def test_both_heads_of_debertas_masked_lm_are_read(name):
    layout, port = make("deberta", "vocab")
    params, state = draw(port)
    stored = store(params, state, layout, port)
    ours = "lm_predictions.lm_head."
    renamed = {key.replace(ours, name.format("")) if key.startswith(ours) else key: x for key, x in stored.items()}
    if "cls" in name:
        renamed["cls.predictions.bias"] = renamed.pop("cls.predictions.transform.bias")
    found = convert(renamed, layout, port, shapes_of(port))
    assert not found.fresh and not found.unused
    jax.tree.map(np.testing.assert_array_equal, found.params, params)

from __future__ import annotations

import re

import jax
import numpy as np
import pytest

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.pretrained.families import by_model_type
from jaxfer.pretrained.layout import convert, store
from jaxfer.registry import MODELS
from tests.models.tiny import draw

HF = by_model_type("bert")
TINY = dict(vocab=23, width=12, layers=2, heads=3, mlp_width=20, positions=9, types=2, max_length=7)
CONFIG = {
    "model_type": "bert",
    "vocab_size": 23,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 9,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.2,
    "layer_norm_eps": 1e-5,
}


def flat(params):
    return {f"params/{path}": np.asarray(leaf) for path, leaf in rules.flatten(params).items()}


def shapes(port):
    params, state = jax.eval_shape(port.init, jax.random.key(0), port.example(2))
    return rules.flatten({"params": params, **state})


@pytest.mark.parametrize("pool", ["pooler", "mean"])
@pytest.mark.parametrize("norm", ["weight bias", "gamma beta"])
def test_a_round_trip_is_bitwise(norm, pool):
    """Also from TensorFlow's names of the norms' leaves, which the first checkpoints of 2018 have."""
    port = MODELS.make("bert", outputs=5, **TINY, pool=pool)
    params, _ = draw(port)
    stored, names = store(params, {}, HF, port), dict(zip(("weight", "bias"), norm.split(), strict=True))
    stored = {re.sub(r"(?<=LayerNorm\.)\w+", lambda hit: names[hit[0]], key): leaf for key, leaf in stored.items()}
    assert f"bert.embeddings.LayerNorm.{norm.split()[0]}" in stored
    moved = convert(stored, HF, port, shapes(port))
    assert (moved.fresh, moved.unused, moved.model_state) == ((), (), {})
    ours, back = flat(params), flat(moved.params)
    assert ours.keys() == back.keys()
    for path in ours:
        np.testing.assert_array_equal(ours[path], back[path])


def test_names_and_axes_are_those_of_transformers():
    port = MODELS.make("bert", outputs=5, **TINY)
    params, _ = draw(port)
    stored = store(params, {}, HF, port)
    layer = "bert.encoder.layer.1."
    assert {name: leaf.shape for name, leaf in stored.items() if name.startswith(layer) or "encoder" not in name} == {
        "bert.embeddings.word_embeddings.weight": (23, 12),
        "bert.embeddings.position_embeddings.weight": (9, 12),
        "bert.embeddings.token_type_embeddings.weight": (2, 12),
        "bert.embeddings.LayerNorm.weight": (12,),
        "bert.embeddings.LayerNorm.bias": (12,),
        **{f"{layer}attention.self.{n}.weight": (12, 12) for n in ("query", "key", "value")},
        **{f"{layer}attention.self.{n}.bias": (12,) for n in ("query", "key", "value")},
        f"{layer}attention.output.dense.weight": (12, 12),
        f"{layer}attention.output.dense.bias": (12,),
        f"{layer}attention.output.LayerNorm.weight": (12,),
        f"{layer}attention.output.LayerNorm.bias": (12,),
        f"{layer}intermediate.dense.weight": (20, 12),
        f"{layer}intermediate.dense.bias": (20,),
        f"{layer}output.dense.weight": (12, 20),
        f"{layer}output.dense.bias": (12,),
        f"{layer}output.LayerNorm.weight": (12,),
        f"{layer}output.LayerNorm.bias": (12,),
        "bert.pooler.dense.weight": (12, 12),
        "bert.pooler.dense.bias": (12,),
        "classifier.weight": (5, 12),
        "classifier.bias": (5,),
    }
    # Row h * 4 + d of a torch weight is output d of head h.
    query = params["block_1"]["attn"]["query"]["kernel"]
    np.testing.assert_array_equal(stored[f"{layer}attention.self.query.weight"][2 * 4 + 1], query[:, 2, 1])
    out = params["block_1"]["attn"]["out"]["kernel"]
    np.testing.assert_array_equal(stored[f"{layer}attention.output.dense.weight"][:, 2 * 4 + 1], out[2, 1])


def test_a_bare_encoder_of_pretraining_is_read():
    port = MODELS.make("bert", outputs=5, **TINY, pool="mean")
    stored = store(draw(port)[0], {}, HF, port)
    bare = {name.removeprefix("bert."): leaf for name, leaf in stored.items() if not name.startswith("classifier")}
    extra = {
        "embeddings.position_ids": np.arange(9)[None],
        "pooler.dense.weight": np.ones((12, 12), np.float32),
        "pooler.dense.bias": np.ones(12, np.float32),
        "cls.predictions.bias": np.ones(23, np.float32),
    }
    moved = convert({**bare, **extra}, HF, port, shapes(port))
    assert set(moved.fresh) == {"params/head/out/kernel", "params/head/out/bias"}
    assert set(moved.unused) == set(extra)


def test_options_are_the_configs():
    options = HF.options(CONFIG, {}, {"bert.pooler.dense.weight": (12, 12)})
    port = MODELS.make("bert", outputs=3, **options)
    assert options == {
        **TINY,
        "pool": "pooler",
        "activation": "gelu_new",
        "epsilon": 1e-5,
        "dropout": 0.1,
        "attention_dropout": 0.2,
        "classifier_dropout": None,
        "max_length": 9,
    }
    spec = port.options.spec
    assert (spec.attention_dropout, spec.dropout, port.options.drop_classifier) == (0.2, 0.1, 0.1)


@pytest.mark.parametrize(
    ("shapes", "more", "pool"),
    [
        ({"pooler.dense.weight": (12, 12)}, {}, "pooler"),
        ({}, {}, "mean"),
        ({"pooler.dense.weight": (12, 12)}, {"pooling_mode": "mean"}, "mean"),
        ({"bert.pooler.dense.weight": (12, 12)}, {"pooling_mode": "cls+max"}, "cls+max"),
    ],
)
def test_pooling_is_the_checkpoints(shapes, more, pool):
    assert HF.options({**CONFIG, **more}, {}, shapes)["pool"] == pool


def test_what_the_config_leaves_out_is_as_in_transformers():
    few = {name: CONFIG[name] for name in list(CONFIG)[:6]}
    options = HF.options(few, {}, {})
    assert {name: options[name] for name in ("positions", "types", "activation", "epsilon", "dropout")} == {
        "positions": 512,
        "types": 2,
        "activation": "gelu",
        "epsilon": 1e-12,
        "dropout": 0.1,
    }
    assert (options["attention_dropout"], options["max_length"]) == (None, 128)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"position_embedding_type": "relative_key"},
            "expected position_embedding_type 'absolute', found 'relative_key",
        ),
        ({"is_decoder": True}, "is_decoder is true; BERT is read as an encoder only"),
        ({"hidden_size": None}, "hidden_size is missing"),
    ],
)
def test_configs_that_are_not_read(change, message):
    config = {name: value for name, value in {**CONFIG, **change}.items() if value is not None}
    with pytest.raises(InputError) as error:
        HF.options(config, {}, {})
    assert message in str(error.value)


@pytest.mark.parametrize(("dropout", "expected"), [(None, 0.1), (0.0, 0.0), (0.3, 0.3)])
def test_the_exported_config_gives_the_same_port(dropout, expected):
    options = HF.options({**CONFIG, "classifier_dropout": dropout}, {}, {"pooler.dense.weight": ()})
    assert MODELS.make("bert", outputs=3, **options).options.drop_classifier == expected
    port = MODELS.make("bert", outputs=3, **options)
    config = HF.config(port, options, ("a", "b", "c"))
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert (config["id2label"], config["label2id"]) == ({"0": "a", "1": "b", "2": "c"}, {"a": 0, "b": 1, "c": 2})
    assert HF.options(config, {}, {"bert.pooler.dense.weight": ()}) == options
    assert HF.config(MODELS.make("bert", outputs=1, **options), options, ())["problem_type"] == "regression"
    assert HF.preprocessor(port) == {}


def test_mean_pooling_has_no_class_in_transformers():
    with pytest.raises(InputError, match="transformers has no BERT classifier with pool='mean'"):
        HF.config(MODELS.make("bert", outputs=3, **TINY, pool="mean"), {}, ("a", "b", "c"))

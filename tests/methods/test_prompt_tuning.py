"""Prompt tuning: counts, tokens in front by hand, the start, what an encoder-decoder writes, and what it can't read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
from jaxfer.conformance import tiny
from jaxfer.errors import InputError
from jaxfer.method import NOTHING
from jaxfer.models.written import written
from jaxfer.ports import port_shapes
from jaxfer.registry import METHODS, MODELS
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from tests.experiments import tiny_config, tiny_stage


def test_the_count_on_roberta_base():
    port = MODELS.make("roberta", outputs=2)
    init = METHODS.make("prompt_tuning", port, tokens=20).init
    params, _ = jax.eval_shape(init, port_shapes(port)[0], jax.random.key(0), NOTHING)
    assert sum(leaf.size for leaf in jax.tree.leaves(params["prompt_tuning"])) == 15_360


def made(method, case, changes=(), **options):
    port = tiny.make(case, **dict(changes))
    method = METHODS.make(method, port, **options)
    params, model_state = tiny.draw(port)
    params, _ = method.init(params, jax.random.key(0), NOTHING)
    return port, method, params, model_state, tiny.batch(port)


@pytest.mark.parametrize("case", ["bert_pooler", "bert_mean", "decoder_llama"])
def test_by_hand(case):
    """Block by block, on rows of tokens and masks that are put together here; the head reads the text's own."""
    port, method, params, _, batch = made("prompt_tuning", case, tokens=2)
    plain, names = method.view(params, {}), port.units[1:-1]
    mask = np.pad(batch["attention_mask"], ((0, 0), (2, 0)), constant_values=1)

    def unit(name, x, **side):
        return port.apply(plain, {}, {**batch, port.inputs[0]: x, **side}, begin=name, end=name)[0]

    @jax.jit
    def passed():
        x = port.apply(plain, {}, batch, end="stem")[0]
        prompts = params["prompt_tuning"]["block_0"]["prompts"]
        x = jnp.concatenate([jnp.broadcast_to(prompts, (len(x), *prompts.shape)), x], 1)
        for name in names:
            x = unit(name, x, attention_mask=mask)
        found = port.apply(plain, {}, batch, intercept=method.intercept(params, {}))[0]
        return unit("head", x[:, 2:]), found, port.apply(plain, {}, batch)[0]

    wanted, found, bare = passed()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert jnp.abs(found - bare).max() > 1e-2


def test_behind_the_class_token_they_would_do_the_same():
    """In a model of learned positions, which the tokens bring with them."""
    port, method, params, _, batch = made("prompt_tuning", "bert_pooler", tokens=2)
    plain, x = method.view(params, {}), None
    found = port.apply(plain, {}, batch, intercept=method.intercept(params, {}))[0]
    mask = np.insert(batch["attention_mask"], [1, 1], 1, axis=1)
    x = port.apply(plain, {}, batch, end="stem")[0]
    prompts = params["prompt_tuning"]["block_0"]["prompts"]
    x = jnp.concatenate([x[:, :1], jnp.broadcast_to(prompts, (len(x), *prompts.shape)), x[:, 1:]], 1)
    side = {**batch, "attention_mask": mask}
    wanted = port.apply(plain, {}, {**side, "input_ids": x}, begin="block_0")[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_start_is_that_of_random_tokens():
    port, _, params, _, _ = made("prompt_tuning", "t5", tokens=50)
    table = np.asarray(params["encoder_stem"]["word"]["embedding"])
    drawn = np.asarray(params["prompt_tuning"]["encoder_block_0"]["prompts"])
    apart = np.abs(drawn[:, None] - table).max(-1)
    assert (apart.min(1) == 0).all() and len(set(apart.argmin(1))) > len(table) / 2
    uniform = made("prompt_tuning", "t5", tokens=50, start="uniform")[2]["prompt_tuning"]["encoder_block_0"]["prompts"]
    assert 0.49 < np.abs(uniform).max() <= 0.5


def test_a_token_of_bert_is_embedded_at_the_first_place():
    port, method, params, _, batch = made("prompt_tuning", "bert_pooler", tokens=30)
    ids = np.arange(port.encoding.vocab)[:, None] * np.ones((1, batch["input_ids"].shape[1]), np.int32)
    fields = {"input_ids": ids.astype(np.int32), "attention_mask": np.ones_like(ids, np.int32)}
    fields["token_type_ids"] = np.zeros_like(fields["input_ids"])
    rows = np.asarray(port.apply(method.view(params, {}), {}, fields, end="stem")[0])[:, 0]
    drawn = np.asarray(params["prompt_tuning"]["block_0"]["prompts"])
    assert np.abs(drawn[:, None] - rows).max(-1).min(1).max() < 1e-6


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_what_is_written_is_what_the_whole_pass_finds_likeliest(method):
    """With a cache of keys, and a memory that holds the prompts."""
    port, method, params, _, batch = made(method, "t5", {"head": "seq2seq"}, tokens=3)
    plain, intercept = method.view(params, {}), method.intercept(params, {})
    write = jax.jit(lambda params: written(port, params, {}, batch, key=jax.random.key(0), intercept=intercept))
    found = np.asarray(write(plain))
    ids = np.concatenate([np.full((len(found), 1), port.options.start), found[:, :-1]], 1).astype(np.int32)
    fed = {**batch, "decoder_input_ids": ids}
    scores = np.asarray(jax.jit(lambda params: port.apply(params, {}, fed, intercept=intercept)[0])(plain))
    going = np.cumprod(np.pad(found[:, :-1] != port.options.end, ((0, 0), (1, 0)), constant_values=True), 1) > 0
    assert going.sum() > len(found) and (scores.argmax(-1) == found)[going].all()
    other = np.asarray(jax.jit(lambda params: port.apply(params, {}, fed)[0])(plain))
    assert np.abs(other - scores).max() > 1e-3


@pytest.mark.parametrize(
    "case,why", [("vit_cls", "reads texts, and this model reads images"), ("clip", "this model reads images")]
)
def test_a_model_of_something_else(case, why):
    with pytest.raises(InputError, match=f"prompt_tuning: .*{why}"):
        tiny_stage(case, method="prompt_tuning")


def test_options():
    with pytest.raises(InputError, match="prompt_tuning: expected tokens >= 1, found 0"):
        tiny_stage("bert_pooler", method="prompt_tuning", options={"tokens": 0})
    with pytest.raises(InputError, match="prompt_tuning: unknown start 'vocabs'; nearest: 'vocab'"):
        tiny_stage("bert_pooler", method="prompt_tuning", options={"start": "vocabs"})


def test_the_form_of_peft_by_hand():
    """Embeddings of words with the prompts in front, then places and types, norm and blocks; the first is pooled."""
    changes = {"max_length": 7}
    port, method, params, _, batch = made("prompt_tuning", "bert_pooler", changes, tokens=2, form="peft")
    plain, stem = method.view(params, {}), params["stem"]
    prompts = params["prompt_tuning"]["stem"]["prompts"]
    words = stem["word"]["embedding"][batch["input_ids"]]
    words = jnp.concatenate([jnp.broadcast_to(prompts, (len(words), *prompts.shape)), words], 1)
    types = np.pad(batch["token_type_ids"], ((0, 0), (2, 0)))
    x = words + stem["type"]["embedding"][types] + stem["position"]["embedding"][: words.shape[1]]
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + port.options.epsilon)
    x = x * stem["norm"]["scale"] + stem["norm"]["bias"]
    side = {**batch, "attention_mask": np.pad(batch["attention_mask"], ((0, 0), (2, 0)), constant_values=1)}
    wanted = port.apply(plain, {}, {**side, "input_ids": x}, begin="block_0")[0]
    found = port.apply(plain, {}, batch, intercept=method.intercept(params, {}))[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    table = np.asarray(stem["word"]["embedding"])
    assert (np.abs(np.asarray(prompts)[:, None] - table).max(-1).min(1) == 0).all()


def test_what_the_form_of_peft_is_not_of():
    for case, options, why in (
        ("bert_mean", {"tokens": 2}, "form='peft' is of encoders whose own pooler reads the first token"),
        ("bert_pooler", {"tokens": 3}, "moves tokens on by 3 of 9 positions, found max_length=7; set"),
    ):
        with pytest.raises(InputError, match=f"prompt_tuning: .*{why}"):
            tiny_stage(case, method="prompt_tuning", options={**options, "form": "peft"})
    with pytest.raises(InputError, match="prompt_tuning: unknown form 'pefd'; nearest: 'peft'"):
        tiny_stage("bert_pooler", method="prompt_tuning", options={"form": "pefd"})
    with pytest.raises(InputError, match="prefix_tuning: form='peft' moves tokens on in a table of positions"):
        tiny_stage("decoder_llama", method="prefix_tuning", options={"form": "peft"})


@pytest.mark.system
def test_a_run_predicts_and_is_not_exported(tmp_path):
    jaxfer.run(tiny_config("bert_pooler", method="prompt_tuning", steps=2), tmp_path / "run", quiet=True)
    (answer,) = jaxfer.predict(tmp_path / "run", "a b c", text=True)
    assert answer.error is None and len(answer.probabilities) == 3
    with pytest.raises(InputError, match="method 'prompt_tuning' adds modules that no plain"):
        jaxfer.export(tmp_path / "run")


@pytest.mark.system
@pytest.mark.parametrize(
    "method,form", [("prompt_tuning", {"tokens": 2}), ("prefix_tuning", {"tokens": 2, "hidden": 0})]
)
def test_a_run_goes_on_from_the_prompts_of_another(method, form, tmp_path):
    """In peft's form, whose parameters `former` hands on; a rate of 0 shows what the later run begins with."""
    fields = {"method": method, "steps": 1, "options": {**form, "form": "peft"}}
    first = jaxfer.run(tiny_config("bert_pooler", **fields), tmp_path / "first", quiet=True)
    config = tiny_config("bert_pooler", init="sibling:first", lr=0.0, **fields)
    second = jaxfer.run(config, tmp_path / "second", quiet=True)
    assert second["metrics"]["val"] == first["metrics"]["val"]
    before, after = (flatten(open_run(tmp_path / name).state.params) for name in ("first", "second"))
    assert before.keys() == after.keys() and any(path.startswith(method) for path in before)
    assert all(np.array_equal(leaf, after[path]) for path, leaf in before.items())

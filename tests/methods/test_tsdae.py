"""TSDAE: its loss by hand, which tokens are deleted, and a decoder that sees the vector and the tokens before."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.methods import tsdae
from jaxfer.models.port import FEATURES
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_stage


def by_hand(logits, ids, mask):
    losses = []
    for i, j in zip(*np.nonzero(mask), strict=True):
        row = logits[i, j] - logits[i, j].max()
        losses.append(np.log(np.exp(row).sum()) - row[ids[i, j]])
    return np.mean(losses)


def test_loss_by_hand():
    rng = np.random.default_rng(0)
    logits, ids, mask = rng.normal(size=(3, 5, 7)), rng.integers(7, size=(3, 5)), np.arange(5) < [[5], [2], [0]]
    with jax.enable_x64(True):
        found = tsdae.cross_entropy(jnp.asarray(logits), jnp.asarray(ids), jnp.asarray(mask))
    assert float(found) == pytest.approx(by_hand(logits, ids, mask), rel=1e-9)


def test_the_ends_and_one_token_stay():
    lengths, size = np.tile([3, 12, 30], 200), 30
    mask = (np.arange(size) < lengths[:, None]).astype(np.int32)
    ids = np.where(mask, 100 + np.arange(size), 0)
    fields = {"input_ids": ids, "token_type_ids": (ids > 110).astype(np.int32), "attention_mask": mask}
    for share, wanted in ((0.6, 0.4), (1.0, None)):
        found = jax.device_get(jax.jit(tsdae.without_some)(jax.random.key(0), fields, share))
        shares = []
        for row, types, left, length in zip(*(found[name] for name in fields), lengths, strict=True):
            count = left.sum()
            tokens = row[:count]
            np.testing.assert_array_equal(left, np.arange(size) < count)
            assert (np.diff(tokens) > 0).all() and not row[count:].any()  # in their order, then padding
            assert tokens[0] == 100 and tokens[-1] == 99 + length and count >= 3
            np.testing.assert_array_equal(types[:count], tokens > 110)
            if wanted is None:
                assert count == 3
            elif length == 30:
                shares.append((count - 2) / 28)
        assert wanted is None or abs(np.mean(shares) - wanted) < 0.02


def test_a_step_by_hand():
    stage = tiny_stage("bert_pooler", method="tsdae", options={"layers": 2})
    (params, model_state), (batch,), port = backbone(stage), batches(stage, 1), stage.spec.port
    state = stage.enter(params, model_state, 0)
    start, key = jax.device_get(state.params), jax.random.fold_in(jax.random.fold_in(state.key, 0), tsdae.DELETED)
    fewer = tsdae.without_some(key, {name: jnp.asarray(batch[name]) for name in port.inputs}, 0.6)
    vector = port.forward(params, model_state, fewer, taps=(FEATURES,)).taps[FEATURES]
    decoder, ids, words = start["decoder"]["head"], batch["input_ids"], start["stem"]["word"]["embedding"]
    logits = np.asarray(tsdae.scores(decoder, words, vector, ids[:, :-1]))
    wanted = by_hand(logits.astype(np.float64), ids[:, 1:], batch["attention_mask"][:, 1:])
    after, metrics = jax.jit(make_train_step(stage.spec))(state, batch)
    assert float(metrics["loss"]) == pytest.approx(wanted, rel=1e-4)
    assert not np.array_equal(after.params["decoder"]["head"]["pos"], decoder["pos"])
    # A token is scored by those before it and by the vector.
    other = ids[:, :-1].copy()
    other[:, 3:] = (other[:, 3:] + 1) % 23
    changed = np.asarray(tsdae.scores(decoder, words, vector, other))
    np.testing.assert_allclose(changed[:, :3], logits[:, :3], rtol=1e-5, atol=1e-5)
    assert not np.allclose(changed[:, 3:], logits[:, 3:], atol=1e-3)
    assert not np.allclose(tsdae.scores(decoder, words, vector[::-1], ids[:, :-1]), logits, atol=1e-3)


def test_a_tied_decoder_by_hand():
    """The network reads each text, a token those up to it and the vector's map, and scores the next one."""
    stage = tiny_stage("bert_pooler", method="tsdae", options={"tied": True})
    (params, model_state), (batch,), port = backbone(stage), batches(stage, 1), stage.spec.port
    state = stage.enter(params, model_state, 0)
    start, key = jax.device_get(state.params), jax.random.fold_in(jax.random.fold_in(state.key, 0), tsdae.DELETED)
    decoder = start["decoder"]["head"]
    assert set(decoder) == {"vector", "bias"} and decoder["vector"]["kernel"].shape[0] == 2
    fewer = tsdae.without_some(key, {name: jnp.asarray(batch[name]) for name in port.inputs}, 0.6)
    vector = np.asarray(port.forward(params, model_state, fewer, taps=(FEATURES,)).taps[FEATURES])
    maps = [vector @ kernel for kernel in decoder["vector"]["kernel"]]

    def moved(next_fun, args, kwargs, context):
        path = "/".join(context.module.path) if context.method_name == "__call__" else ""
        if path.endswith("attn/mix"):  # softmax over the tokens up to each
            query, key, value = (np.asarray(x, np.float64) for x in args[:3])
            weights = np.exp(np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1]))
            weights *= np.tri(query.shape[1]) * batch["attention_mask"][:, None, None, :]
            return jnp.asarray(np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), value), "float32")
        outputs = next_fun(*args, **kwargs)
        return outputs + maps[int(path[6])][:, None] if path.endswith("attn/out") else outputs

    tokens = port.forward(params, model_state, batch, taps=("block_1",), intercept=moved).taps["block_1"]
    logits = np.asarray(tokens)[:, :-1].astype(np.float64) @ start["stem"]["word"]["embedding"].T
    wanted = by_hand(logits, batch["input_ids"][:, 1:], batch["attention_mask"][:, 1:])
    after, metrics = jax.jit(make_train_step(stage.spec))(state, batch)
    assert float(metrics["loss"]) == pytest.approx(wanted, rel=1e-4)
    for path in (("decoder", "head", "vector", "kernel"), ("block_0", "attn", "query", "kernel")):
        now, before = after.params, start
        for name in path:
            now, before = now[name], before[name]
        assert not np.array_equal(now, before)


def test_what_is_refused():
    with pytest.raises(InputError, match="tsdae: reads texts by a table of words, and this model reads images"):
        tiny_stage("vit_cls", method="tsdae")
    with pytest.raises(InputError, match="options.layers: expected at least 1, found 0"):
        tiny_stage("bert_pooler", method="tsdae", options={"layers": 0})

"""Generation against transformers' `generate`, token by token; cached scores against uncached ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: the extra `parity`")
pytest.importorskip("transformers")

import torch

from jaxfer.models.generation import cached, generate
from tests.parity.test_causal_lm import MODELS_OF, fields, opened

pytestmark = pytest.mark.optimised


@pytest.mark.parametrize("case", MODELS_OF)
def test_greedy_tokens_are_those_of_transformers(case, tmp_path):
    model, _, port, params = opened(case, tmp_path)
    batch = fields()
    found = np.asarray(generate(port, params, batch, tokens=6))
    for ids, mask, tokens in zip(batch["input_ids"], batch["attention_mask"], found, strict=True):
        prompt = torch.from_numpy(ids[mask > 0]).long()[None]
        expected = model.eval().generate(prompt, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=1)
        np.testing.assert_array_equal(tokens, expected[0, mask.sum() :].numpy())


@pytest.mark.parametrize("case", MODELS_OF)
def test_cached_scores_are_those_without_a_cache(case, tmp_path):
    _, _, port, params = opened(case, tmp_path)
    ids = jnp.asarray(fields()["input_ids"])
    whole = port.apply(params, {}, {**fields(), "attention_mask": jnp.ones_like(ids)})[0]
    places = jnp.broadcast_to(jnp.arange(9), ids.shape)
    first, cache = cached(port, params, {}, ids[:, :4], places[:, :4], 12)
    step = jax.jit(lambda cache, ids, places: cached(port, params, cache, ids, places, 12))
    parts = [first]
    for i in range(4, 9):
        scores, cache = step(cache, ids[:, i : i + 1], places[:, i : i + 1])
        parts.append(scores)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, atol=1e-4)

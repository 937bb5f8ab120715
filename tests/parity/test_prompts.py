"""Prefixes and prompts of peft's own models: our methods on the same numbers give its logits.

peft moves the tokens of a text on by as many positions as there are virtual tokens; so does a table of ours whose first
rows are left out.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from jaxfer.exports.predict import load_export
from jaxfer.method import NOTHING
from jaxfer.registry import METHODS
from tests.experiments import TOKENIZER

from .reference import compare
from .test_export import BERT

COUNT = 3
MODELS = {
    "bert": (BertForSequenceClassification, BertConfig(**BERT, max_position_embeddings=12, initializer_range=0.5)),
    "gpt2": (
        GPT2ForSequenceClassification,
        GPT2Config(
            **dict(vocab_size=BERT["vocab_size"], n_embd=12, n_layer=2, n_head=3, n_positions=12, pad_token_id=0),
            **dict(bos_token_id=None, eos_token_id=None, initializer_range=0.5),
        ),
    ),
}


def opened(name, folder):
    """(their model, our port and the same weights with positions moved on, their table, a batch for each)."""
    torch.manual_seed(0)
    make, config = MODELS[name]
    config.num_labels = 3
    make(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)
    ours = load_export(folder)
    tokens = AutoTokenizer.from_pretrained(TOKENIZER)(["very film a good.", "good very film a."], return_tensors="pt")
    batch = {name: x.numpy() for name, x in tokens.items()}
    if name == "gpt2":
        tokens.pop("token_type_ids")
    table = ours.params["stem"]["position"]["embedding"]
    moved = {**ours.params["stem"], "position": {"embedding": jnp.roll(table, -COUNT, 0)}}
    return make.from_pretrained(folder), ours.port, {**ours.params, "stem": moved}, table, tokens, batch


def logits(model, tokens):
    with torch.no_grad():
        return {"logits": model.eval()(**tokens).logits.numpy()}


def adapted(port, name, params, learned, batch, **options):
    method = METHODS.make(name, port, tokens=COUNT, **options)
    tree, _ = method.init(params, jax.random.key(0), NOTHING)
    assert jax.tree.map(jnp.shape, learned) == jax.tree.map(jnp.shape, tree[name])
    intercept = method.intercept({**params, name: learned}, {})
    return {"logits": np.asarray(port.apply(params, {}, batch, intercept=intercept)[0])}


@pytest.mark.parametrize("name", MODELS)
def test_a_prefix(name, tmp_path):
    theirs, port, params, _, tokens, batch = opened(name, tmp_path)
    plain = logits(theirs, tokens)["logits"]
    theirs = peft.get_peft_model(theirs, peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=COUNT))
    # [tokens, layers * 2 * heads * width], of each layer keys, then values
    flat = theirs.prompt_encoder["default"].embedding.weight.detach().numpy()
    flat = flat.reshape(COUNT, 2, 2, 3, 4).transpose(1, 2, 0, 3, 4)
    learned = {f"block_{i}": {"attn": {"mix": {"prefix": jnp.asarray(flat[i])}}} for i in range(2)}
    expected = logits(theirs, tokens)
    assert np.abs(expected["logits"] - plain).max() > 0.1
    compare(adapted(port, "prefix_tuning", params, learned, batch, hidden=0), expected, scaled=False)


def test_a_prompt(tmp_path):
    """Of a decoder, whose last token is pooled; peft adds positions to prompts too."""
    theirs, port, params, table, tokens, batch = opened("gpt2", tmp_path)
    plain = logits(theirs, tokens)["logits"]
    theirs = peft.get_peft_model(theirs, peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=COUNT))
    prompts = theirs.prompt_encoder["default"].embedding.weight.detach().numpy()
    expected = logits(theirs, tokens)
    assert np.abs(expected["logits"] - plain).max() > 0.1
    learned = {"block_0": {"prompts": prompts + np.asarray(table[:COUNT])}}
    compare(adapted(port, "prompt_tuning", params, learned, batch), expected, scaled=False)

"""Causal language modelling against transformers' `...ForCausalLM`: logits, the loss, its gradient, and the export."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: the extra `parity`")
pytest.importorskip("transformers")

import torch
import transformers
from safetensors.numpy import save_file

from jaxfer.data.encodings.text import texts
from jaxfer.data.split import Split
from jaxfer.pretrained.families import by_model_type
from jaxfer.pretrained.layout import convert, store
from jaxfer.registry import MODELS, TASKS
from jaxfer.rules import flatten
from tests.parity.families.decoder import TINY, norms
from tests.parity.reference import compare, settle, tensors

pytestmark = pytest.mark.optimised

GPT2 = dict(vocab_size=53, n_embd=35, n_layer=2, n_head=5, n_positions=16, bos_token_id=None, eos_token_id=None)
STILL = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
MODELS_OF = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, **STILL)),
    "llama_untied": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY, tie_word_embeddings=False)),
    "qwen2_tied": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**TINY, tie_word_embeddings=True)),
    "gemma3": lambda: transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(
            **TINY, layer_types=["sliding_attention", "full_attention"], sliding_window=3, query_pre_attn_scalar=11
        )
    ),
}


def fields(examples=3, length=9, seed=0):
    rng = np.random.default_rng(seed)
    mask = (np.arange(length) < np.asarray([length, 5, 2])[:examples, None]).astype(np.int32)
    ids = np.where(mask, rng.integers(3, 53, mask.shape), 1).astype(np.int32)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def opened(case, folder):
    """(the settled reference, layout, port, params)."""
    torch.manual_seed(0)
    model = MODELS_OF[case]()
    batch = fields()
    theirs = {name: torch.from_numpy(batch[name]).long() for name in ("input_ids", "attention_mask")}
    settle(model, theirs, last=r".*\.(c_attn|c_fc|c_proj|o_proj|down_proj)", gain=0.5)
    norms(model)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(0.5)
    stored = tensors(model, folder)
    config = json.loads((folder / "config.json").read_text())
    layout = by_model_type(config["model_type"])
    shapes = {key: x.shape for key, x in stored.items()}
    port = MODELS.make(layout.family, outputs=0, head="next", **layout.options(config, {}, shapes))
    params, state = jax.eval_shape(port.init, jax.random.key(0), batch)
    found = convert(stored, layout, port, flatten({"params": params, **state}))
    assert not found.fresh and not found.unused
    return model, layout, port, jax.tree.map(jnp.asarray, found.params)


@pytest.mark.parametrize("case", MODELS_OF)
def test_logits_loss_and_gradient(case, tmp_path):
    model, layout, port, params = opened(case, tmp_path)
    task, batch = TASKS.make("causal_lm"), fields()
    batch |= task.targets(Split.whole(text=texts(("a", "b", "c"))), np.arange(3), batch, None)

    def loss(params):
        logits, _ = port.apply(params, {}, batch)
        return task.loss(logits, batch, {}).value(), logits

    (value, logits), slopes = jax.value_and_grad(loss, has_aux=True)(params)
    ids, mask = (torch.from_numpy(batch[name]).long() for name in ("input_ids", "attention_mask"))
    theirs = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100))
    theirs.loss.backward()
    kept = batch["attention_mask"][..., None]
    compare({"logits": np.asarray(logits) * kept}, {"logits": theirs.logits.detach().numpy() * kept})
    np.testing.assert_allclose(value, theirs.loss.item(), rtol=1e-4)
    named = dict(model.named_parameters())
    found = store(slopes, {}, layout, port)
    compare(found, {key: named[key].grad.numpy() for key in found}, scaled=False)


@pytest.mark.parametrize("case", MODELS_OF)
def test_an_export_is_read_by_the_reference(case, tmp_path):
    model, layout, port, params = opened(case, tmp_path / "0")
    (folder := tmp_path / "1").mkdir()
    (folder / "config.json").write_text(json.dumps(layout.config(port, {}, ())))
    save_file(store(params, {}, layout, port), folder / "model.safetensors", {"format": "pt"})
    again, report = type(model).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    ids = torch.from_numpy(fields()["input_ids"]).long()
    with torch.no_grad():
        expected, found = (of.eval()(ids).logits.numpy() for of in (model, again))
    np.testing.assert_allclose(found, expected, atol=1e-5)

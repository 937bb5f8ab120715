"""Files of prompts and prefixes: those of peft read, and ours read by peft, with the same logits."""

from __future__ import annotations

import jax
import numpy as np
import peft
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

import jaxfer
from jaxfer.exports.predict import load_export, load_model
from tests.experiments import TOKENIZER, tiny_config

from .test_export import BERT

COUNT = 3
PAD = {"roberta": 1}
SMALL = dict(**BERT, max_position_embeddings=14, initializer_range=0.5, num_labels=3)
MODELS = {
    "bert": (BertForSequenceClassification, BertConfig(**SMALL)),
    "roberta": (RobertaForSequenceClassification, RobertaConfig(**SMALL, type_vocab_size=1)),
    "electra": (ElectraForSequenceClassification, ElectraConfig(**SMALL, embedding_size=12)),
    "gpt2": (
        GPT2ForSequenceClassification,
        GPT2Config(
            **dict(vocab_size=23, n_embd=12, n_layer=2, n_head=3, n_positions=14, pad_token_id=0, num_labels=3),
            **dict(bos_token_id=None, eos_token_id=None, initializer_range=0.5),
        ),
    ),
}
CONFIGS = {
    "prompt": peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=COUNT),
    "encoded prompt": peft.PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=COUNT, encoder_hidden_size=6),
    "prefix": peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=COUNT),
    "projected prefix": peft.PrefixTuningConfig(
        task_type="SEQ_CLS", num_virtual_tokens=COUNT, prefix_projection=True, encoder_hidden_size=6
    ),
}
CASES = [(name, kind) for name in MODELS for kind in ("prompt", "prefix") if (name, kind) != ("gpt2", "prompt")]


def batch(name, length=6):
    tokens = torch.randint(3, 23, (3, length), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * length, [1] * 4 + [0] * (length - 4), [1] * 2 + [0] * (length - 2)])
    return {"input_ids": torch.where(mask > 0, tokens, PAD.get(name, 0)), "attention_mask": mask}


def logits(model, inputs):
    with torch.no_grad():
        return model.eval()(**inputs).logits.numpy()


def ours(model, inputs):
    fields = {field: x.numpy().astype(np.int32) for field, x in inputs.items()}
    return np.asarray(model.network({"token_type_ids": np.zeros_like(fields["input_ids"]), **fields}).outputs)


@pytest.mark.parametrize(("name", "kind"), [*CASES, ("bert", "encoded prompt"), ("bert", "projected prefix")])
def test_a_file_of_peft(name, kind, tmp_path):
    torch.manual_seed(0)
    make, config = MODELS[name]
    make(config).save_pretrained(tmp_path / "base")
    base, inputs = make.from_pretrained(tmp_path / "base"), batch(name)
    plain = logits(base, inputs)
    theirs = peft.get_peft_model(base, CONFIGS[kind])
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn(parameter.shape))
    theirs.eval().save_pretrained(tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(make.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    expected = logits(theirs, inputs)
    assert np.abs(expected - plain).max() > 0.1
    found = ours(load_export(tmp_path / "adapter"), inputs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "method"), [("bert", "prompt_tuning"), ("bert", "prefix_tuning"), ("gpt2", "prefix_tuning")]
)
def test_a_file_of_ours(name, method, tmp_path):
    """Trained from peft's model, on other classes; the run that wrote it, peft and we on its file agree."""
    torch.manual_seed(0)
    make, config = MODELS[name]
    make(config).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(tmp_path / "base")
    options = {"tokens": COUNT, "form": "peft"}
    fields = dict(steps=2, init=str(tmp_path / "base"), method=method, options=options, lr=0.1)
    run = tiny_config("bert_pooler", **fields)
    run.model = dict(name="auto", max_length=9)
    jaxfer.run(run, tmp_path / "run", quiet=True)
    out, inputs = jaxfer.export(tmp_path / "run", format="peft"), batch(name)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(plain, str(out))
    expected = logits(theirs, inputs)
    np.testing.assert_allclose(ours(load_model(tmp_path / "run"), inputs), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours(load_export(out), inputs), expected, rtol=0, atol=1e-5)
    assert jax.tree.leaves(load_export(out).network.params[method])

"""Masked language modelling against transformers' BertForMaskedLM: one loss and one gradient from the same masks."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
from jaxfer import config, rules
from jaxfer.errors import InputError
from jaxfer.registry import TASKS
from jaxfer.runs.finished import open_run

pytestmark = pytest.mark.optimised

torch = pytest.importorskip("torch", reason="needs PyTorch: the extra `parity`")
transformers = pytest.importorskip("transformers")

NONE = -1
SIZES = dict(
    vocab_size=23, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
    max_position_embeddings=12,
)  # fmt: skip


def saved(folder, hidden_act="gelu"):
    """A BertForMaskedLM with random weights, none neutral, and the phrases' tokenizer, in a folder."""
    options = dict(**SIZES, hidden_act=hidden_act, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = transformers.BertForMaskedLM(transformers.BertConfig(**options, attn_implementation="eager"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            center = 1.0 if "LayerNorm.weight" in name else 0.0
            leaf.normal_(center, 0.3, generator=generator)
    model.save_pretrained(folder)
    transformers.BertTokenizer("tests/data/tokenizer/vocab.txt").save_pretrained(folder)
    return model.eval()


def trained(source, folder, **overrides):
    """A run of masked_lm of two steps from the folder; nothing moves at rate 0."""
    settings = config.load("configs/radiology.py:tiny", {"task.name": "masked_lm"})
    settings.stages, settings.stage = (), {}
    settings.model = dict(name="auto", max_length=8, buckets=(8,))
    settings.update(init=str(source), steps=2, warmup=0, lr=0.0)
    settings.parallel.devices = 1
    jaxfer.run(config.override(settings, overrides), folder, quiet=True)
    return open_run(folder)


def example_of(seed=0):
    rng = np.random.default_rng(seed)
    mask = (np.arange(8) < np.asarray([8, 5, 3])[:, None]).astype(np.int32)
    ids = rng.integers(1, 23, (3, 8)).astype(np.int32) * mask
    masked = np.where((rng.random((3, 8)) < 0.5) & (mask > 0), rng.integers(0, 23, (3, 8)), NONE).astype(np.int32)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids), "masked": masked}


@pytest.mark.parametrize("hidden_act", ["gelu", "relu"])
def test_loss_and_gradients(hidden_act, tmp_path):
    theirs = saved(tmp_path / "source", hidden_act)
    run = trained(tmp_path / "source", tmp_path / "run")
    port, task, batch = run.stage.spec.port, TASKS.make("masked_lm"), example_of()
    assert (batch["masked"] != NONE).sum() > 3
    params = run.stage.leave(run.state)[0]

    def loss(params):
        return task.loss(port.apply(params, {}, batch)[0], batch, {}).value()

    value, found = jax.value_and_grad(loss)(params)
    given = {name: torch.from_numpy(batch[name].astype(np.int64)) for name in port.inputs}
    labels = torch.from_numpy(np.where(batch["masked"] == NONE, -100, batch["masked"]).astype(np.int64))
    wanted = theirs(**given, labels=labels).loss
    wanted.backward()
    assert float(value) == pytest.approx(wanted.item(), abs=1e-5)
    grads = {name: leaf.grad.numpy() for name, leaf in theirs.named_parameters() if leaf.grad is not None}
    keys = {
        "stem/word/embedding": grads["bert.embeddings.word_embeddings.weight"],
        "head/dense/kernel": grads["cls.predictions.transform.dense.weight"].T,
        "head/norm/scale": grads["cls.predictions.transform.LayerNorm.weight"],
        "head/bias": grads["cls.predictions.bias"],
        "block_0/mlp/fc1/kernel": grads["bert.encoder.layer.0.intermediate.dense.weight"].T,
    }
    leaves = rules.flatten(found)
    for path, grad in keys.items():
        np.testing.assert_allclose(leaves[path], grad, atol=2e-5, err_msg=path)
        assert jnp.abs(leaves[path]).max() > 1e-3


def test_an_untied_decoder_is_refused(tmp_path):
    saved(tmp_path / "source")
    file = tmp_path / "source" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tie_word_embeddings": False}))
    with pytest.raises(InputError, match="decoder is not tied to the word embedding, ours is; set config.head=reset"):
        trained(tmp_path / "source", tmp_path / "kept")
    trained(tmp_path / "source", tmp_path / "reset", head="reset")


def test_the_ledger_tells_the_head_s_origin(tmp_path):
    saved(tmp_path / "source")
    trained(tmp_path / "source", tmp_path / "kept")
    trained(tmp_path / "source", tmp_path / "reset", head="reset")
    transformers.BertModel.from_pretrained(tmp_path / "source", add_pooling_layer=False).save_pretrained(
        tmp_path / "bare"
    )
    transformers.BertTokenizer("tests/data/tokenizer/vocab.txt").save_pretrained(tmp_path / "bare")
    trained(tmp_path / "bare", tmp_path / "fresh")

    def told(run):
        leaves = json.loads((tmp_path / run / "ledger.json").read_text())["leaves"]
        assert leaves["params/stem/word/embedding"]["what"] == "renamed"
        heads = {leaf: entry for leaf, entry in leaves.items() if leaf.startswith("params/head/")}
        assert len(heads) == 5
        return {(entry["what"], entry.get("why")) for entry in heads.values()}

    assert told("kept") == {("renamed", None), ("transposed", None)}
    assert told("reset") == {("re-initialised", "config.head=reset")}
    assert told("fresh") == {("missing", "the source has none")}

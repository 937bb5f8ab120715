"""sentence-transformers' `encode` gives the logits of our exports, and our ports the embeddings of its models."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

import jaxfer
from jaxfer.exports.predict import load_model
from jaxfer.pretrained import carrying, foreign
from jaxfer.registry import MODELS
from jaxfer.rules import flatten
from tests.experiments import TOKENIZER, tiny_config

from .reference import compare
from .test_export import BERT, loaded


def test_encode_gives_the_logits(tmp_path):
    torch.manual_seed(0)
    config = BertConfig(**BERT, max_position_embeddings=9, num_labels=5, initializer_range=0.5)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "theirs")
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(tmp_path / "theirs")
    run = tiny_config("bert_mean", steps=2, init=str(tmp_path / "theirs"), lr=1e-2, differs=("pool",), method="probe")
    run.model = dict(name="auto", pool="mean", max_length=6)
    jaxfer.run(run, tmp_path / "run", quiet=True)
    out = jaxfer.export(tmp_path / "run", format="sentence-transformers")
    loaded(AutoModel, out)
    reference = SentenceTransformer(str(out), device="cpu")
    assert reference.max_seq_length == 6
    phrases = ["very film a good.", "was bad films", "a plain it songs films ! and more of it than six", "good"]
    model = load_model(tmp_path / "run")
    batch = AutoTokenizer.from_pretrained(out)(
        phrases, padding=True, truncation=True, max_length=6, return_tensors="np"
    )
    found = np.asarray(model.port.apply(model.params, {}, dict(batch))[0])
    compare({"logits": found}, {"logits": reference.encode(phrases)}, scaled=False)
    pairs = [(phrases[0], phrases[3]), (phrases[1], phrases[1])]
    model = load_model(out)  # read back, its head with it
    batch = AutoTokenizer.from_pretrained(out)(pairs, padding=True, truncation=True, max_length=6, return_tensors="np")
    found = np.asarray(model.port.apply(model.params, {}, dict(batch))[0])
    compare({"logits": found}, {"logits": reference.encode(pairs)}, scaled=False)


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_its_own_folder_gives_its_embeddings(mode, tmp_path):
    """Every pooling, with a dense layer behind it and without; the head is made the identity."""
    torch.manual_seed(0)
    BertModel(BertConfig(**BERT, max_position_embeddings=9, initializer_range=0.5)).save_pretrained(tmp_path / "bert")
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(tmp_path / "bert")
    encoder = modules.Transformer(str(tmp_path / "bert"), max_seq_length=6)
    width = encoder.get_embedding_dimension()
    chain = [encoder, modules.Pooling(width, pooling_mode=mode)]
    chain += [modules.Dense(width, 5), modules.Normalize()] if mode in ("cls", "mean") else []
    reference = SentenceTransformer(modules=chain, device="cpu")
    reference.save_pretrained(str(tmp_path / "theirs"))
    found = foreign.opened(str(tmp_path / "theirs"), "auto", {})
    options = {**found.options, "max_length": 6, "normalize": mode in ("cls", "mean")}
    outputs = options.get("projection") or width
    port = MODELS.make("bert", outputs=outputs, **options)
    shapes = flatten({"params": jax.eval_shape(port.init, jax.random.key(0), port.example(2))[0]})
    params = carrying.carry(found, port, shapes, reset=[], differs=[]).params
    identity = {"kernel": np.eye(outputs, dtype=np.float32), "bias": np.zeros(outputs, np.float32)}
    params["head"] = {**params.get("head", {}), "out": identity}
    phrases = ["very film a good.", "was bad films", "a plain it songs films ! and more of it than six", "good"]
    batch = AutoTokenizer.from_pretrained(tmp_path / "theirs")(
        phrases, padding=True, truncation=True, max_length=6, return_tensors="np"
    )
    ours = np.asarray(port.apply(params, {}, dict(batch))[0])
    compare({"embedding": ours}, {"embedding": reference.encode(phrases)}, scaled=False)

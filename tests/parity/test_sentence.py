"""A mean-pooled text model goes out: sentence-transformers' own `encode` gives our logits."""

from __future__ import annotations

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForSequenceClassification

import jaxfer
from jaxfer.exports.predict import load_model
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

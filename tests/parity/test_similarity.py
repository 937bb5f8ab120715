"""Losses of the task `similarity` and their gradients against sentence-transformers' own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
from jaxfer.errors import InputError
from jaxfer.registry import TASKS

torch = pytest.importorskip("torch")
losses = pytest.importorskip("sentence_transformers.losses")


class Given(torch.nn.Module):
    """An encoder whose embeddings are its input."""

    def forward(self, features):
        return {"sentence_embedding": features["embedding"]}


@pytest.mark.parametrize(
    ("name", "reference"),
    [("cosine", losses.CosineSimilarityLoss), ("multiple_negatives", losses.MultipleNegativesRankingLoss)],
)
def test_values_and_gradients(name, reference):
    rng = np.random.default_rng(0)
    outputs, label = rng.normal(size=(6, 2, 5)).astype(np.float32), rng.random(6).astype(np.float32)
    task = TASKS.make("similarity", loss=name)
    hparams = {key: jnp.float32(value) for key, value in (task.hparams or {}).items()}

    def loss(x):
        return task.loss(x, {"label": jnp.asarray(label)}, hparams).value()

    found, gradient = jax.value_and_grad(loss)(jnp.asarray(outputs))
    parts = [torch.tensor(outputs[:, i], requires_grad=True) for i in range(2)]
    wanted = reference(Given())([{"embedding": part} for part in parts], torch.tensor(label))
    wanted.backward()
    np.testing.assert_allclose(found, wanted.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, np.stack([part.grad.numpy() for part in parts], 1), rtol=1e-4, atol=1e-6)


def test_an_export_embeds_texts_as_the_run_does(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    config = jaxfer.load("configs/stsb_similarity.py:tiny", {"parallel.devices": 1})
    jaxfer.run(config, tmp_path / "run", quiet=True)
    with pytest.raises(InputError, match="--format=hf has no place for a model without an output layer"):
        jaxfer.export(tmp_path / "run", format="hf")
    folder = jaxfer.export(tmp_path / "run", format="sentence-transformers")
    assert "embeddings = " in (folder / "README.md").read_text()
    model = sentence_transformers.SentenceTransformer(str(folder))
    pairs = [("the film was good.", "a very bad plot"), ("good", "a song")]
    found = [answer.value for answer in jaxfer.predict(tmp_path / "run", pairs, text=True)]
    for pair, cosine in zip(pairs, found, strict=True):
        first, second = model.encode(list(pair), convert_to_numpy=True)
        wanted = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        assert cosine == pytest.approx(wanted, abs=1e-5)

"""Similarity by hand: the losses of sentence-transformers, pairs read apart, and a run from the file to the answer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxfer
from jaxfer.conformance import tiny
from jaxfer.data.encodings.text import TextEncoding, texts
from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError
from jaxfer.registry import TASKS
from jaxfer.training.preflight import preflight

CONFIG = "configs/stsb_similarity.py:tiny"
# Cosines of the pairs: 1, 0.6; across them: first of 0 and second of 1: 0.6, first of 1 and second of 0: 1.
OUTPUTS = jnp.asarray([[[2.0, 0.0], [5.0, 0.0]], [[1.0, 0.0], [3.0, 4.0]]])
LABEL = jnp.asarray([5.0, 1.0])
PAIRS = texts(("good film", "bad", "the plot was very bad!"), ("film", "a plain song", "good"))


def encoding(**changes) -> TextEncoding:
    given = dict(tokenizer="tests/data/tokenizer", tokenizer_sha256="", vocab=23, types=2, max_length=6, buckets=(6,))
    return TextEncoding(**{**given, **changes})


def test_the_squared_error_of_the_cosine():
    mean = TASKS.make("similarity", largest=5.0).loss(OUTPUTS, {"label": LABEL}, {})
    np.testing.assert_allclose(mean.total, [0.0, (0.6 - 0.2) ** 2], atol=1e-6)


def test_multiple_negatives_is_cross_entropy_over_the_second_texts():
    task, scale = TASKS.make("similarity", loss="multiple_negatives"), 20.0
    assert task.whole_batch and task.hparams == {"scale": scale}
    mean = task.loss(OUTPUTS, {"label": LABEL}, {"scale": jnp.float32(scale)})
    gap = scale * (1 - 0.6)
    np.testing.assert_allclose(mean.total, [np.log1p(np.exp(-gap)), gap + np.log1p(np.exp(-gap))], rtol=1e-5, atol=1e-6)


def test_texts_of_zero_length_have_finite_gradients():
    task = TASKS.make("similarity")
    grads = jax.grad(lambda outputs: task.loss(outputs, {"label": LABEL}, {}).value())(jnp.zeros_like(OUTPUTS))
    assert np.isfinite(grads).all()


def test_metrics_are_correlations_with_the_score():
    found, label = np.asarray([0.9, 0.1, 0.5, 0.7], np.float32), np.asarray([5.0, 0.0, 3.0, 2.0], np.float32)
    task = TASKS.make("similarity")
    metrics = task.gathered(found, Split.whole(label=Array(label, "value")))
    assert metrics["spearman"] == pytest.approx(0.8)
    assert metrics["pearson"] == pytest.approx(stats.pearsonr(found, label).statistic)
    assert task.gathered(found * 0, Split.whole(label=Array(label, "value"))) == {"spearman": 0.0, "pearson": 0.0}


def test_each_text_is_read_as_if_alone():
    split = Split.whole(text=PAIRS).take(np.asarray([2, 0]))
    reader = encoding(apart=True).reader(split)
    fields = reader(np.asarray([0, 1]), 6)
    for place, part in enumerate((PAIRS.first, PAIRS.second)):
        alone = encoding().reader(Split.whole(text=texts(part)))(np.asarray([2, 0]), 6)
        for name in fields:
            np.testing.assert_array_equal(fields[name][:, place], alone[name])
    assert list(reader.lengths) == [6, 4]
    assert {name: (2, *shape.shape[1:]) for name, shape in encoding(apart=True).example(2).items()} == {
        name: values.shape for name, values in fields.items()
    }


def test_texts_without_a_partner_are_refused():
    with pytest.raises(InputError, match="expected pairs of texts, found texts; name the column of the second texts"):
        encoding(apart=True).reader(Split.whole(text=texts(("good",))))


def test_one_encoder_gives_both_embeddings():
    port = tiny.make("bert_mean", head="embedding", outputs=0)
    params, state = tiny.draw(port)
    assert "head" not in params  # no new parameters
    batch = tiny.batch(port, 4)
    alone, _ = port.apply(params, state, batch)
    pairs = {name: values.reshape(2, 2, -1) for name, values in batch.items()}
    both, _ = port.with_apart().apply(params, state, pairs)
    assert both.shape == (2, 2, 12)
    np.testing.assert_array_equal(both.reshape(4, 12), alone)


@pytest.mark.system
@pytest.mark.parametrize("loss", ["cosine", "multiple_negatives"])
def test_a_run_and_its_answers(tmp_path, loss):
    config = jaxfer.load(CONFIG, {"task.loss": loss, "eval_batch_size": 3, "parallel.devices": 2, "test": True})
    result = jaxfer.run(config, tmp_path / "run", quiet=True)
    assert set(result["metrics"]["test"]) == {"loss", "spearman", "pearson"}
    one, two = jaxfer.predict(tmp_path / "run", [("good film", "a plot"), ("good", "good")], text=True)
    assert -1 <= one.value <= 1 and two.value == pytest.approx(1.0, abs=1e-6)
    assert jaxfer.evaluate(tmp_path / "run", split="test") == pytest.approx(result["metrics"]["test"])


def test_a_loss_over_the_batch_is_not_split():
    contrastive = {"task.loss": "multiple_negatives"}
    with pytest.raises(InputError, match="task 'similarity' is of the batch as a whole, found 2 slices; set it to 1"):
        preflight(jaxfer.load(CONFIG, {**contrastive, "accumulate": 2, "parallel.devices": 1}))
    with pytest.raises(InputError, match="mode=pmap: the loss of the task is of the batch as a whole; use mode=jit"):
        preflight(jaxfer.load(CONFIG, {**contrastive, "parallel.mode": "pmap"}))
    preflight(jaxfer.load(CONFIG, {"accumulate": 2, "parallel.devices": 1}))


def test_a_probe_has_nothing_to_train():
    with pytest.raises(InputError, match="everything is frozen, nothing would be trained"):
        preflight(jaxfer.load(CONFIG, {"method": "probe", "freeze": (), "lr": 0.1}))


def test_data_of_another_task():
    with pytest.raises(InputError, match="needs a score a pair, the data has 3 classes"):
        TASKS.make("similarity").outputs(3)
    with pytest.raises(InputError, match="expected config.task.largest to be positive, found 0"):
        TASKS.make("similarity", largest=0)

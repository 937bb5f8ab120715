"""Encoder-decoders against transformers' `...ForConditionalGeneration`: the loss, texts that are written, the cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: the extra `parity`")
pytest.importorskip("transformers")

import torch
import transformers

from jaxfer.models import written
from jaxfer.registry import TASKS
from tests.parity.families import cases, spectrograms
from tests.parity.test_families import opened

pytestmark = pytest.mark.optimised

CASES = {name: case for name, case in cases().items() if case.target and case.rate}


def theirs(batch):
    """The encoder's input, as transformers names it."""
    if "audio" in batch:
        return {"input_features": spectrograms(batch)["input_features"]}
    return {name: torch.from_numpy(batch[name]).long() for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("name", CASES)
def test_the_loss_of_the_task(name, tmp_path):
    model, _, port, params, _, batch = opened(CASES[name], tmp_path)
    labels = np.random.default_rng(3).integers(3, 20, batch["decoder_input_ids"].shape).astype(np.int32)
    labels[1, 4:] = -1
    task = TASKS.make("seq2seq")
    outputs, _ = port.apply(params, {}, batch)
    found = task.loss(outputs, {"labels": jnp.asarray(labels)}, {"label_smoothing": jnp.float32(0.0)}).value()
    ids = torch.from_numpy(batch["decoder_input_ids"]).long()
    with torch.no_grad():
        to = torch.from_numpy(np.where(labels < 0, -100, labels)).long()
        expected = model.eval()(**theirs(batch), decoder_input_ids=ids, labels=to).loss
    np.testing.assert_allclose(found, expected.item(), rtol=1e-4)
    # transformers' LabelSmoother, of the same logits
    from transformers.trainer_pt_utils import LabelSmoother

    smoothed = task.loss(outputs, {"labels": jnp.asarray(labels)}, {"label_smoothing": jnp.float32(0.1)}).value()
    expected = LabelSmoother(0.1)({"logits": torch.from_numpy(np.array(outputs))}, to)
    np.testing.assert_allclose(smoothed, expected.item(), rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_greedy_texts_are_those_of_transformers(name, tmp_path):
    model, _, port, params, _, batch = opened(CASES[name], tmp_path)
    options = port.options
    found = np.asarray(written.write(port, params, batch, tokens=12))
    begin = torch.tensor([[options.start, *options.prefix]] * len(found))
    with torch.no_grad():
        expected = transformers.GenerationMixin.generate(  # Whisper's own would add tokens to the start
            model.eval(),
            **theirs(batch),
            decoder_input_ids=begin,
            decoder_start_token_id=options.start,
            max_new_tokens=12,
            do_sample=False,
            num_beams=1,
            use_cache=False,  # transformers 5.x makes a cache of the encoder's depth
        )
    expected = expected.numpy()[:, begin.shape[1] :]
    assert len({*expected.ravel().tolist()}) > 2  # a text of one token would prove little
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected)
    assert (found[:, expected.shape[1] :] == options.pad).all()


@pytest.mark.parametrize("name", CASES)
def test_cached_scores_are_those_of_a_whole_pass(name, tmp_path):
    _, _, port, params, _, batch = opened(CASES[name], tmp_path)
    whole, _ = port.apply(params, {}, batch)
    ids, length = jnp.asarray(batch["decoder_input_ids"]), batch["decoder_input_ids"].shape[1]
    first, *names = port.encoding.example(1)
    side = {field: batch[field] for field in names}
    run = jax.tree_util.Partial(written._run, port, params, {}, side, None)
    memory = run(batch[first], {}, end=written.END)
    places = jnp.broadcast_to(jnp.arange(length), ids.shape)
    scores, cache = written._decoded(run, port, params, memory, length, {}, ids[:, :5], places[:, :5])
    step = jax.jit(lambda cache, ids, at: written._decoded(run, port, params, memory, length, cache, ids, at))
    parts = [scores]
    for i in range(5, length):
        scores, cache = step(cache, ids[:, i : i + 1], places[:, i : i + 1])
        parts.append(scores)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, atol=1e-4)

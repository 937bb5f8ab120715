"""Tagging: labels at first pieces, entities as the CoNLL 2003 script counts them, and what a run answers."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
from jaxfer.data.encodings.text import TextEncoding, Words
from jaxfer.data.loader import Feed, eval_batches
from jaxfer.data.sources.conll import Tags
from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.registry import TASKS
from jaxfer.tasks.tagging import NONE, entities
from tests.experiments import TOKENIZER, tiny_config

NAMES = ("O", "B-thing", "I-thing")
SENTENCES = (("good", "films", "and", "plots"), ("the", "very", "plainly", "bad", "song"))
TAGS = ([0, 1, 0, 2], [0, 0, 0, 0, 1])
ENCODING = TextEncoding(
    tokenizer=TOKENIZER, tokenizer_sha256="", vocab=23, types=2, max_length=8, buckets=(8,), words=True
)


def tagged(sentences=SENTENCES, tags=TAGS):
    values = tuple(np.asarray(row, np.int32) for row in tags)
    return Split.whole(text=Words(sentences), tags=Tags(NAMES, values))


def fed(split, encoding=ENCODING):
    (batch,) = eval_batches(
        Feed(split=split, encodings=(encoding,), targets=TASKS.make("tagging").targets), batch_size=2
    )
    return batch


def test_a_tag_is_at_the_first_piece_of_its_word():
    """`films`, `plots` and `plainly` have two pieces; special tokens and padding have no tag."""
    batch = fed(tagged())
    n = NONE
    assert batch["tags"].tolist() == [[n, 0, 1, n, 0, 2, n, n], [n, 0, 0, 0, n, 0, 1, n]]
    assert batch["words"].tolist() == [[n, 0, 1, n, 2, 3, n, n], [n, 0, 1, 2, n, 3, 4, n]]


def test_words_that_are_cut_off_have_no_token():
    batch = fed(tagged(), dataclasses.replace(ENCODING, max_length=5, buckets=(5,)))
    assert batch["words"].tolist() == [[-1, 0, 1, -1, -1], [-1, 0, 1, 2, -1]]


def test_loss_and_accuracy_by_hand():
    """Means over words, not over examples: three words of the first, one of the second."""
    task, outputs = (
        TASKS.make("tagging"),
        jnp.asarray(np.log([[[0.5, 0.3, 0.2]] * 4, [[0.1, 0.8, 0.1]] * 4]), jnp.float32),
    )
    batch = {"tags": jnp.asarray([[NONE, 0, 1, 0], [NONE, NONE, 1, NONE]])}
    found = task.loss(outputs, batch, {})
    assert found.count.tolist() == [3, 1]
    wanted = -(np.log(0.5) * 2 + np.log(0.3) + np.log(0.8)) / 4
    np.testing.assert_allclose(found.value(), wanted, rtol=1e-6)
    np.testing.assert_allclose(task.scores(outputs, batch)["word_accuracy"].value(), 3 / 4)


@pytest.mark.parametrize(
    "tags,wanted",
    [
        ("O B-a I-a O B-b", [("a", 1, 2), ("b", 4, 4)]),
        ("I-a I-a O I-b", [("a", 0, 1), ("b", 3, 3)]),  # IOB1
        ("I-a B-a I-a", [("a", 0, 0), ("a", 1, 2)]),
        ("B-a I-b", [("a", 0, 0), ("b", 1, 1)]),
        ("B-a B-a", [("a", 0, 0), ("a", 1, 1)]),
        ("O O", []),
    ],
)
def test_entities(tags, wanted):
    assert list(entities(tags.split())) == wanted


def test_precision_recall_and_f1_by_hand():
    """Of three entities two are found, one of them with a wrong end; one more is made up."""
    sentences = (("a", "b", "c", "d"), ("a", "b", "c"))
    split = tagged(sentences, ([1, 2, 0, 1], [0, 1, 0]))
    predicted = {"tags": np.asarray([[1, 2, 0, 0], [1, 1, 2, 0]]), "words": np.asarray([[0, 1, 2, 3], [0, 1, 2, NONE]])}
    found = TASKS.make("tagging").gathered(predicted, split)
    # Found: (0, 1) right; in the second (0, 0) made up and (1, 2) for (1, 1).
    assert found == {"entity_precision": 1 / 3, "entity_recall": 1 / 3, "entity_f1": pytest.approx(1 / 3)}


@pytest.mark.system
def test_a_run_answers_with_the_entities(tmp_path):
    data = {"source": "conll", "path": "tests/data/tagged"}
    config = tiny_config("bert_pooler", task={"name": "tagging"}, data=data, steps=2)
    result = jaxfer.run(config, tmp_path / "run", quiet=True)
    assert set(result["metrics"]["val"]) >= {"loss", "word_accuracy", "entity_precision", "entity_recall", "entity_f1"}
    assert jaxfer.evaluate(tmp_path / "run") == pytest.approx(result["metrics"]["val"], rel=1e-6)
    (answer,) = jaxfer.predict(tmp_path / "run", "the film was good", text=True)
    assert answer.spans is not None and set(answer.to_dict()) == {"input", "spans"}
    for text, kind in answer.spans:
        assert text in "the film was good" and kind == "thing"


def test_a_model_without_such_a_head_is_refused():
    with pytest.raises(
        InputError, match="task 'tagging' needs a model with the head 'token', model 'resnet' has pooled"
    ):
        from jaxfer.config import resolve
        from jaxfer.ports import make_port

        make_port(resolve(tiny_config("resnet_basic", task={"name": "tagging"})), 3)

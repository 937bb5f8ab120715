"""Spans by hand: SQuAD v1.1's metrics, the best span, targets in windows, and a run from the file to the answer."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
from jaxfer.data.encodings.text import TextEncoding, texts
from jaxfer.data.sources.squad import Spans
from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError
from jaxfer.registry import TASKS
from jaxfer.tasks.span import normalized, word_f1

CONTEXT = "The film was good. A plot, very bád 🙂 and plain!"


def encoding(max_length: int) -> TextEncoding:
    tokenizer = "tests/data/tokenizer"
    return TextEncoding(
        tokenizer=tokenizer, tokenizer_sha256="", vocab=23, types=2, max_length=max_length, buckets=(max_length,)
    )


@pytest.mark.parametrize(
    ("answer", "truths", "exact", "f1"),
    [
        ("The cat", ["cat"], 1, 1),
        ("an apple a day", ["apple the day"], 1, 1),
        ("U.S.", ["us"], 1, 1),
        ("  Denver \n Broncos ", ["denver broncos"], 1, 1),
        ("Naïve CAFÉ", ["naïve café!"], 1, 1),
        ("“cat”", ["cat"], 0, 0),  # ASCII punctuation alone is removed
        ("well-known", ["well known"], 0, 0),  # without a space in its place
        ("theatre", ["atre"], 0, 0),  # articles are words
        ("a.n. x", ["x"], 1, 1),  # what is left of punctuation may be one
        ("Denver Broncos", ["Broncos", "Denver Broncos team"], 0, 0.8),
        ("to to be", ["to be be"], 0, 2 / 3),
        ("the", ["a"], 1, 0),  # both are empty: equal, without a common word
        ("cat", ["dog", "cat"], 1, 1),
        ("", ["cat"], 0, 0),
    ],
)
def test_metrics_of_the_script(answer, truths, exact, f1):
    # The script's own numbers, in percent there.
    assert max(normalized(answer) == normalized(truth) for truth in truths) == exact
    assert max(word_f1(answer, truth) for truth in truths) == pytest.approx(f1)


def test_metrics_are_means_over_questions_of_the_best_truth():
    split = Split.whole(
        text=texts(("?", "?"), ("the big cat", "a dog")),
        spans=Spans((((8, "cat"), (4, "big cat")), ((2, "dog"),))),
    )
    found = {"start": np.asarray([0, 0]), "end": np.asarray([11, 1]), "score": np.zeros(2, np.float32)}
    assert TASKS.make("span").gathered(found, split) == {"exact_match": 0.5, "f1": 0.5}


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_best_span_is_that_of_all_pairs(longest):
    rng = np.random.default_rng(0)
    outputs, context = rng.normal(size=(5, 9, 2)).astype(np.float32), rng.random((5, 9)) < 0.7
    context[:, 4] = True
    found = TASKS.make("span", longest=longest).collect(jnp.asarray(outputs), {"context": jnp.asarray(context)})
    for i in range(5):
        pairs = {
            (s, e): outputs[i, s, 0] + outputs[i, e, 1]
            for s in range(9)
            for e in range(s, min(9, s + longest))
            if context[i, s] and context[i, e]
        }
        best = max(pairs, key=pairs.get)
        assert (int(found["start"][i]), int(found["end"][i])) == best
        assert float(found["score"][i]) == pytest.approx(pairs[best], rel=1e-6)


def test_targets_point_to_the_answer_or_to_the_first_token():
    task, short = TASKS.make("span", stride=2), encoding(11)
    split = Split.whole(text=texts(("The plot?",), (CONTEXT,)), spans=Spans((((32, "bád 🙂"), (4, "film")),)))
    expanded = task.expanded(split, (short,))
    rows = np.arange(len(expanded))
    targets = task.targets(expanded, rows, short.reader(expanded)(rows, 11), None)
    inside = np.flatnonzero(targets["start"])
    assert 0 < len(inside) < len(rows) and targets["context"].dtype == np.int32
    for row in inside:
        window = expanded.example("text", row)
        begin, end = window.begins[targets["start"][row]], window.ends[targets["end"][row]]
        assert CONTEXT[begin:end] == "bád 🙂"
    assert not targets["end"][targets["start"] == 0].any()
    # The answer of the window with the highest score, back in characters.
    found = {**targets, "score": (targets["start"] > 0).astype(np.float32)}
    merged = task.merge({name: found[name] for name in ("start", "end", "score")}, expanded)
    assert task.answer({name: values[0] for name, values in merged.items()}, (), ("", CONTEXT)).text == "bád 🙂"
    assert task.gathered(merged, split) == {"exact_match": 1.0, "f1": 1.0}


def test_the_loss_is_both_ends_cross_entropy_and_knows_no_padding():
    task, outputs = TASKS.make("span"), np.log([[[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]]]).astype(np.float32)
    batch = {"start": jnp.asarray([1]), "end": jnp.asarray([2]), "attention_mask": jnp.ones((1, 3), jnp.int32)}
    mean = task.loss(jnp.asarray(outputs), batch, {})
    assert float(mean.value()) == pytest.approx((np.log(4 / 2) + np.log(4 / 1)) / 2, rel=1e-6)
    padded = np.concatenate([outputs, np.full((1, 2, 2), 9.0, np.float32)], 1)
    mask = jnp.asarray([[1, 1, 1, 0, 0]])
    again = task.loss(jnp.asarray(padded), {**batch, "attention_mask": mask}, {})
    assert float(again.value()) == pytest.approx(float(mean.value()), rel=1e-6)


@pytest.mark.system
def test_a_run_and_its_answers(tmp_path):
    config = jaxfer.load("configs/squad_small.py:tiny", {"parallel.devices": 1, "eval_batch_size": 3})
    result = jaxfer.run(config, tmp_path / "run", quiet=True)
    assert result["examples"] == {"train": 12, "val": 5}
    assert set(result["metrics"]["val"]) == {"loss", "exact_match", "f1"}
    long = "The film was good and the plot was very very bad and plain."
    answers = jaxfer.predict(tmp_path / "run", [("The film?", long), ("The plot", "Plain")], text=True, batch_size=2)
    assert answers[0].text and answers[0].text in long and answers[1].text == "Plain"
    assert answers[1].to_dict() == {"input": "The plot\tPlain", "text": "Plain"}
    assert jaxfer.evaluate(tmp_path / "run") == pytest.approx(result["metrics"]["val"])


def test_data_of_another_task():
    with pytest.raises(InputError, match="needs questions with answers, the data has 3 classes; use another task"):
        TASKS.make("span").outputs(3)
    split = Split.whole(text=texts(("good",)), label=Array(np.zeros(1, np.float32), "value"))
    with pytest.raises(InputError, match="needs questions with answers, the data has text, value; use data.source"):
        TASKS.make("span").expanded(split, (encoding(8),))
    with pytest.raises(InputError, match=r"config.task.longest >= 1 and config.task.stride >= 0, found longest=0"):
        TASKS.make("span", longest=0)

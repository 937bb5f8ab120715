"""Sequence to sequence: its targets and losses by hand, its metrics, and a run from texts to texts."""

from __future__ import annotations

import importlib.util
import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
import jaxfer.config
from jaxfer.conformance import tasks
from jaxfer.data.encodings.target import NONE, TargetEncoding, Targets
from jaxfer.data.encodings.text import texts as texts_of
from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.exports.predict import predict
from jaxfer.registry import SOURCES, TASKS
from jaxfer.tasks import _texts as texts

WORDS = ("[PAD]", "[UNK]", "</s>", "one", "two", "three", "four", "five")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer of words: one is token 3, two is 4, and so on."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("tokenizer")
    names = dict(unk_token="[UNK]", pad_token="[PAD]", eos_token="</s>")
    PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(folder)
    return str(folder)


def encoding(tokenizer, **changes):
    given = dict(tokenizer=tokenizer, tokenizer_sha256="", vocab=8, max_length=5, start=0, prefix=(), end=2, pad=0)
    return TargetEncoding(**{**given, "column": "text", **changes})


def split_of(*targets):
    return Split.whole(text=texts_of(("a",) * len(targets)), target_text=Targets(targets))


@pytest.mark.parametrize("check", tasks.PROPERTIES, ids=lambda check: check.__name__)
def test_it_keeps_what_every_task_keeps(check):
    assert check("seq2seq") is None


def test_targets_are_shifted_right_and_cut_before_the_end(tokenizer):
    split = split_of("one two", "one two three four five", "")
    fields = encoding(tokenizer).reader(split)(np.arange(3))
    np.testing.assert_array_equal(fields["decoder_input_ids"], [[0, 3, 4, 0, 0], [0, 3, 4, 5, 6], [0, 0, 0, 0, 0]])
    found = TASKS.make("seq2seq").targets(split, np.arange(3), fields, None)
    np.testing.assert_array_equal(found["labels"], [[3, 4, 2, NONE, NONE], [3, 4, 5, 6, 2], [2] + [NONE] * 4])


def test_given_tokens_come_first_and_stand_alone_where_a_target_is_asked_for(tokenizer):
    of = encoding(tokenizer, prefix=(7, 1))
    fields = of.reader(split_of("one two"))(np.arange(1))
    np.testing.assert_array_equal(fields["decoder_input_ids"], [[0, 7, 1, 3, 4]])
    np.testing.assert_array_equal(fields["target_ids"], [[7, 1, 3, 4, 2]])
    fields = of.reader(Split.whole(text=texts_of(("a",))))(np.arange(1))
    np.testing.assert_array_equal(fields["decoder_input_ids"], [[0, 7, 1, 0, 0]])
    assert (fields["target_ids"] == NONE).all()


def test_written_tokens_are_spelled_up_to_the_end(tokenizer):
    ids = np.array([[3, 4, 2, 5, 5], [5, 0, 3, NONE, NONE]])
    assert encoding(tokenizer).spelled(ids) == ["one two", "three one"]


def test_losses_by_hand():
    logits = jnp.log(jnp.asarray([[[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [0.9, 0.05, 0.05]]]))
    batch = {"labels": jnp.asarray([[0, 2, NONE]])}
    task = TASKS.make("seq2seq")
    plain = -(np.log(0.5) + np.log(0.6)) / 2
    found = task.loss(logits, batch, {"label_smoothing": jnp.float32(0.0)})
    assert float(found.count.sum()) == 2
    np.testing.assert_allclose(found.value(), plain, rtol=1e-6)
    mean = -(np.log([0.5, 0.25, 0.25]).mean() + np.log([0.2, 0.2, 0.6]).mean()) / 2
    found = task.loss(logits, batch, {"label_smoothing": jnp.float32(0.2)}).value()
    np.testing.assert_allclose(found, 0.8 * plain + 0.2 * mean, rtol=1e-6)
    scores = task.scores(logits, batch)
    np.testing.assert_allclose(scores["token_accuracy"].value(), 1.0)
    collected = {name: np.asarray(x) for name, x in task.collect(logits, batch).items()}
    np.testing.assert_allclose(task.gathered(collected, None)["perplexity"], np.exp(plain), rtol=1e-6)


def test_metrics_by_hand():
    found, true = ["the cat sat", "a dog"], ["the cat sat down", "a dog"]
    metrics = texts.scored(("rouge", "wer"), found, true)
    np.testing.assert_allclose(metrics["wer"], 1 / 6)  # one word is missing of six
    np.testing.assert_allclose(metrics["rouge1"], (2 * 1 * 0.75 / 1.75 + 1) / 2)  # precision 3/3, recall 3/4
    np.testing.assert_allclose(metrics["rouge2"], (2 * 1 * (2 / 3) / (5 / 3) + 1) / 2)
    np.testing.assert_allclose(
        texts.scored(("bleu",), ["the cat sat on the mat"], ["the cat sat on the mat"])["bleu"], 100
    )
    # precisions 4/5, 3/4, 2/3, 1/2 and a brevity penalty of e^(1 - 6/5)
    bleu = 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25 * np.exp(1 - 6 / 5)
    np.testing.assert_allclose(texts.scored(("bleu",), ["b c d e x"], ["a b c d e f"])["bleu"], bleu)
    assert texts.plain("Don't  STOP -- it's 5%!") == "dont stop its 5"


def test_a_missing_package_names_the_extra(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sacrebleu" else find(name))
    with pytest.raises(
        InputError, match=r"metric 'bleu' needs the package sacrebleu: pip install 'jaxfer\[text-metrics\]'"
    ):
        TASKS.make("seq2seq", metrics=("bleu",))
    with pytest.raises(InputError, match="unknown metric 'blue'; nearest: 'bleu'"):
        TASKS.make("seq2seq", metrics=("blue",))


def test_data_without_targets_are_refused():
    from jaxfer.data.encoding import Draw

    split = Split.whole(text=texts_of(("a",)))
    with pytest.raises(InputError, match="task 'seq2seq' needs inputs with target texts, the data has text"):
        TASKS.make("seq2seq").targets(split, np.arange(1), {"target_ids": None}, Draw(0, 0, np.arange(1)))


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Words and the two that follow each, around the circle."""
    folder, words = tmp_path_factory.mktemp("counted"), WORDS[3:]
    rows = [{"source": w, "target": f"{words[i - 4]} {words[i - 3]}"} for i, w in enumerate(words)]
    for name, count in (("train", 5), ("val", 1), ("test", 1)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows * count))
    return folder


def test_the_source(counted):
    data = SOURCES.make("text_to_text", path=str(counted), instruction="count: ")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 25, "val": 5, "test": 5}
    split = data.splits["train"]
    assert (split.example("text", 1), split.example("target_text", 1)) == ("count: two", "three four")
    assert "target_text" not in split.sealed().columns
    with pytest.raises(InputError, match="data.target='goal' is not a column"):
        SOURCES.make("text_to_text", path=str(counted), target="goal")


def test_a_run_learns_to_count_and_predicts(counted, tokenizer, tmp_path):
    config = jaxfer.config.base()
    config.model = dict(
        **dict(name="t5", tokenizer=tokenizer, vocab=8, width=32, layers=1, heads=2, head_width=16, mlp_width=64),
        **dict(max_length=4, target_length=4, end=2),
    )
    config.data = dict(source="text_to_text", path=str(counted))
    config.task = dict(name="seq2seq", metrics=("bleu", "rouge", "wer"))
    config.update(init="scratch", method="full", batch_size=25, steps=100, lr=1e-2, eval_every=0, save_every=0)
    result = jaxfer.run(config, tmp_path / "run")
    metrics = result["metrics"]["val"]
    assert metrics["token_accuracy"] > 0.95 and metrics["wer"] < 0.1 and metrics["rouge1"] > 0.9
    assert metrics["perplexity"] < 1.5
    answers = predict(tmp_path / "run", ["five", "two"], text=True)
    assert [answer.text for answer in answers] == ["one two", "three four"]
    export = jaxfer.export(tmp_path / "run")
    again = predict(export, ["five", "two"], text=True)
    assert [answer.text for answer in again] == ["one two", "three four"]

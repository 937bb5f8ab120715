"""Masked language modelling: which tokens are hidden, the loss by hand, and the head whose decoder is the embedding."""

from __future__ import annotations

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
from jaxfer import config
from jaxfer.conformance import tasks, tiny
from jaxfer.conformance.training import batches, tiny_stage
from jaxfer.data.encoding import Draw
from jaxfer.data.encodings.text import texts
from jaxfer.data.encodings.tokens import Vocabulary
from jaxfer.data.loader import Feed, eval_batches, train_batches
from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.exports.predict import predict
from jaxfer.models.port import Training
from jaxfer.ports import make_port
from jaxfer.registry import TASKS
from jaxfer.rules import flatten, unflatten
from jaxfer.runs.finished import open_run
from jaxfer.step import make_train_step

NONE, MASK, PAD, CLS, SEP, UNK = -1, 4, 0, 2, 3, 1
VOCABULARY = Vocabulary(pad=PAD, mask=MASK, rows=1000, special=(PAD, UNK, CLS, SEP, MASK))


def encoded(count, words=20, pieces=2, length=64):
    """Texts of words with so many pieces each, ids 100 and up, between [CLS] and [SEP]; the last word is unknown."""
    ids = np.full((count, length), PAD, np.int32)
    places = np.full_like(ids, NONE)
    size = words * pieces
    ids[:, 0], ids[:, size + 1] = CLS, SEP
    ids[:, 1 : size + 1] = 100 + np.arange(size)
    ids[:, size] = UNK
    places[:, 1 : size + 1] = np.repeat(np.arange(words), pieces)
    return {"input_ids": ids, "words": places, "vocabulary": VOCABULARY}


def hidden(fields, draw=None, rows=None, **options):
    rows = np.arange(len(fields["input_ids"])) if rows is None else rows
    split = Split.whole(text=texts(("a",) * 10_000))
    return TASKS.make("masked_lm", **options).targets(split, rows, fields, draw)


@pytest.mark.parametrize("check", tasks.PROPERTIES, ids=lambda check: check.__name__)
def test_it_keeps_what_every_task_keeps(check):
    assert check("masked_lm") is None


def test_masks_are_a_function_of_seed_step_and_position():
    fields = encoded(8)
    first = hidden(fields, Draw(0, 3, np.arange(8)))
    again = hidden(fields, Draw(0, 3, np.arange(8), ("flip",)))
    np.testing.assert_array_equal(first["masked"], again["masked"])
    np.testing.assert_array_equal(first["input_ids"], again["input_ids"])
    # A host that reads some of the positions makes the same examples.
    part = hidden({**fields, **{k: fields[k][5:] for k in ("input_ids", "words")}}, Draw(0, 3, np.arange(5, 8)))
    np.testing.assert_array_equal(first["masked"][5:], part["masked"])
    for other in (Draw(1, 3, np.arange(8)), Draw(0, 4, np.arange(8)), Draw(0, 3, np.arange(8, 16))):
        assert (hidden(fields, other)["masked"] != first["masked"]).any()


def test_masks_do_not_depend_on_the_padding():
    short, long = encoded(6, length=48), encoded(6, length=64)
    for draw in (None, Draw(0, 1, np.arange(6))):
        for name in ("input_ids", "masked"):
            np.testing.assert_array_equal(hidden(short, draw)[name], hidden(long, draw)[name][:, :48])


def test_masks_of_an_evaluation_are_the_row_s():
    fields = encoded(4)
    first = hidden(fields)
    np.testing.assert_array_equal(first["masked"], hidden(fields)["masked"])
    moved = hidden(fields, rows=np.asarray([9, 8, 0, 1]))
    np.testing.assert_array_equal(first["masked"][:2], moved["masked"][2:])
    assert (first["masked"] != moved["masked"]).any()
    # The same source row in a smaller split.
    whole = Split.whole(text=texts(("a",) * 10))
    task, row = TASKS.make("masked_lm"), {**fields, **{k: fields[k][:1] for k in ("input_ids", "words")}}
    alone = task.targets(whole.take(np.asarray([7])), np.asarray([0]), row, None)
    np.testing.assert_array_equal(alone["masked"], task.targets(whole, np.asarray([7]), row, None)["masked"])


@pytest.mark.parametrize("whole_word", [False, True])
def test_rates(whole_word):
    # 39 free tokens: 6 of them. 20 words, of which the last has one free token: 3 words, 6 tokens or 5.
    fields = encoded(3000)
    found = hidden(fields, Draw(0, 0, np.arange(3000)), whole_word=whole_word)
    chosen = found["masked"] != NONE
    counts = chosen.sum(1)
    assert set(counts.tolist()) == ({5, 6} if whole_word else {6})
    assert counts.mean() == pytest.approx(3 * 39 / 20 if whole_word else 6, abs=0.03)
    # Every free token is chosen as often as any other: each share within five standard errors.
    shares = chosen[:, 1:40].mean(0)
    np.testing.assert_allclose(shares, 0.15 if whole_word else 6 / 39, atol=5 * (0.15 * 0.85 / 3000) ** 0.5)
    now, true = found["input_ids"][chosen], found["masked"][chosen]
    n = len(now)
    kept, masked = (now == true).mean(), (now == MASK).mean()
    error = 5 * (0.25 / n) ** 0.5
    assert masked == pytest.approx(0.8, abs=error) and kept == pytest.approx(0.1, abs=error)
    others = now[(now != true) & (now != MASK)]
    assert len(others) / n == pytest.approx(0.1, abs=error)
    assert others.min() < 20 and others.max() > 980 and len(set(others.tolist())) > 500
    np.testing.assert_array_equal(found["input_ids"][~chosen], fields["input_ids"][~chosen])
    np.testing.assert_array_equal(true, fields["input_ids"][chosen])


def test_whole_words_are_hidden_together():
    found = hidden(encoded(200), Draw(0, 0, np.arange(200)), whole_word=True)
    chosen = (found["masked"] != NONE)[:, 1:39].reshape(200, 19, 2)
    np.testing.assert_array_equal(chosen[..., 0], chosen[..., 1])


def test_words_of_a_pair_are_other_words():
    # [CLS] 0 0 [SEP] 0 0 [SEP]: one word of each text.
    ids = np.asarray([[CLS, 10, 11, SEP, 12, 13, SEP]] * 300, np.int32)
    words = np.asarray([[-1, 0, 0, -1, 0, 0, -1]] * 300, np.int32)
    fields = {"input_ids": ids, "words": words, "vocabulary": VOCABULARY}
    chosen = hidden(fields, Draw(0, 0, np.arange(300)), whole_word=True)["masked"] != NONE
    assert (chosen.sum(1) == 2).all() and 0.3 < chosen[:, 1].mean() < 0.7
    np.testing.assert_array_equal(chosen[:, 1], chosen[:, 2])


def test_special_tokens_and_padding_are_never_hidden():
    fields = encoded(500)
    for options in ({"rate": 1.0}, {"rate": 1.0, "whole_word": True}, {}):
        found = hidden(fields, Draw(0, 0, np.arange(500)), **options)
        special = np.isin(fields["input_ids"], VOCABULARY.special)
        assert (found["masked"][special] == NONE).all()
        np.testing.assert_array_equal(found["input_ids"][special], fields["input_ids"][special])
        if options:
            assert (found["masked"][~special] != NONE).all()


def test_a_short_text_has_one_hidden_token_and_an_empty_one_none():
    assert (hidden(encoded(9, words=2, pieces=1), Draw(0, 0, np.arange(9)))["masked"] != NONE).sum() == 9
    assert (hidden(encoded(9, words=1, pieces=1))["masked"] == NONE).all()  # an unknown word alone


def test_a_tokenizer_without_a_mask_is_refused():
    fields = {**encoded(1), "vocabulary": VOCABULARY._replace(mask=None)}
    with pytest.raises(InputError, match="needs a tokenizer with a mask token.*has none; choose another"):
        hidden(fields)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1])
def test_rates_out_of_range(rate):
    with pytest.raises(InputError, match=f"config.task.rate: expected a share above 0, at most 1, found {rate}"):
        TASKS.make("masked_lm", rate=rate)


def test_targets_can_be_pickled():
    # Loader processes get them.
    targets = pickle.loads(pickle.dumps(TASKS.make("masked_lm", whole_word=True).targets))
    assert (targets(Split.whole(text=texts(("a",) * 4)), np.arange(4), encoded(4), None)["masked"] != NONE).any()


def test_loss_accuracy_and_perplexity_by_hand():
    # Probabilities (1/2, 1/4, 1/4) and (1/6, 1/3, 1/2) at the chosen tokens; a third is not chosen.
    outputs = jnp.log(jnp.asarray([[[2.0, 1, 1], [1, 2, 3], [9, 9, 9]], [[1, 1, 1]] * 3]))
    batch = {"masked": jnp.asarray([[0, 1, NONE], [NONE] * 3])}
    task = TASKS.make("masked_lm")
    loss = task.loss(outputs, batch, {})
    np.testing.assert_allclose(loss.total, [np.log(2) + np.log(3), 0], rtol=1e-6)
    np.testing.assert_array_equal(loss.count, [2, 0])
    np.testing.assert_allclose(task.scores(outputs, batch)["token_accuracy"].value(), 0.5)
    collected = jax.device_get(task.collect(outputs, batch))
    assert task.gathered(collected, None)["perplexity"] == pytest.approx(6**0.5)
    assert all(values.shape == (2,) for values in collected.values())  # two numbers an example: no logits


def phrases(arg="", **overrides):
    settings = config.load("configs/radiology.py:tiny", {"task.name": "masked_lm", **overrides})
    settings.stages, settings.stage = (), {}
    settings.update(steps=2)
    return settings


@pytest.fixture(scope="module")
def texts_of_two_lengths():
    experiment = config.resolve(phrases())
    port, task = make_port(experiment, 3)
    words = ("a good film", "plots and songs", "very plain films ! it was", "good") * 3
    return Feed(split=Split.whole(text=texts(words)), encodings=port.encodings, targets=task.targets)


def test_the_loader_gives_the_model_the_hidden_tokens(texts_of_two_lengths):
    feed = texts_of_two_lengths
    (batch,) = train_batches(feed, seed=0, batch_size=4, start=0, stop=1)
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "masked"}
    assert (batch["masked"] != NONE).any(1).all()
    assert ((batch["masked"] == NONE) | (batch["attention_mask"] == 1)).all()
    first, again = (list(eval_batches(feed, batch_size=5)) for _ in range(2))
    other = np.concatenate([b["masked"][b["mask"] > 0] for b in eval_batches(feed, batch_size=3)])
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one["input_ids"], two["input_ids"])
    np.testing.assert_array_equal(other, np.concatenate([b["masked"][b["mask"] > 0] for b in first]))


def vocab_stage(**fields):
    return tiny_stage("bert_mean", 3, task={"name": "masked_lm"}, **fields)


def one_batch(stage):
    batch = batches(stage, 1)[0]
    batch["masked"] = np.where(np.arange(7) % 3 == 1, batch["masked"], NONE) * (batch["attention_mask"] > 0) + (
        batch["attention_mask"] - 1
    )
    return {name: jnp.asarray(value) for name, value in batch.items()}


def test_the_head_has_a_transform_and_a_bias_and_no_decoder():
    stage = vocab_stage()
    head = {path: leaf.shape for path, leaf in stage.leaves().items() if path.startswith("head/")}
    assert head == {
        "head/dense/kernel": (12, 12),
        "head/dense/bias": (12,),
        "head/norm/scale": (12,),
        "head/norm/bias": (12,),
        "head/bias": (23,),
    }
    assert stage.spec.port.outputs == 23 and stage.spec.port.head == "head"


def test_the_tied_gradient_is_that_of_the_lookup_and_of_the_decoder():
    """The last unit is one affine map of the table: its gradient is `errors^T y`, added to the stem's."""
    stage = vocab_stage()
    port, task = stage.spec.port, stage.spec.task
    batch, params = one_batch(stage), tiny.draw(port, 1)[0]

    def loss(params):
        return task.loss(port.apply(params, {}, batch)[0], batch, {}).value()

    found = jax.jit(jax.grad(loss))(params)["stem"]["word"]["embedding"]

    def untied(table, decoder):
        leaves = flatten(params)
        x = port.apply(unflatten({**leaves, "stem/word/embedding": table}), {}, batch, end="block_1")[0]
        head = unflatten({**leaves, "stem/word/embedding": decoder})
        return task.loss(port.apply(head, {}, {**batch, "input_ids": x}, begin="head")[0], batch, {}).value()

    table = params["stem"]["word"]["embedding"]
    lookup, decoder = jax.jit(jax.grad(untied, (0, 1)))(table, table)
    np.testing.assert_allclose(found, lookup + decoder, atol=1e-6)
    # By hand: y is what the decoder reads, and the errors are softmax - onehot over the count.
    head = params["head"]
    x = np.asarray(port.apply(params, {}, batch, end="block_1")[0], np.float64)
    y = np.asarray(jax.nn.gelu(x @ head["dense"]["kernel"] + head["dense"]["bias"], approximate=False), np.float64)
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + port.options.epsilon)
    y = y * head["norm"]["scale"] + head["norm"]["bias"]
    chances = jax.nn.softmax(y @ np.asarray(table).T + head["bias"])
    kept = np.asarray(batch["masked"]) != NONE
    errors = (np.asarray(chances) - np.eye(23)[np.where(kept, batch["masked"], 0)]) * kept[..., None] / kept.sum()
    np.testing.assert_allclose(decoder, np.einsum("blv,blw->vw", errors, y), atol=1e-5)
    assert np.abs(decoder).max() > 1e-3 and np.abs(lookup).max() > 1e-3


def stepped(stage, batch):
    state = stage.enter(*tiny.draw(stage.spec.port, 1), 0)
    before = flatten(jax.device_get(state.params))
    after, metrics = jax.jit(make_train_step(stage.spec))(state, batch)
    return before, flatten(jax.device_get(after.params)), metrics


@pytest.mark.parametrize("method", ["full", "probe", "lora"])
def test_frozen_is_frozen(method):
    stage = vocab_stage(method=method, **({"freeze": ("stem/.*",)} if method == "full" else {}))
    before, after, _ = stepped(stage, one_batch(stage))
    moved = {path for path in before if (before[path] != after[path]).any()}
    assert not {path for path in moved if path.startswith("stem/")}
    assert {"head/dense/kernel", "head/bias"} <= moved
    assert any(path.startswith("block_") for path in moved) == (method == "full")
    assert any(path.startswith("lora/") for path in moved) == (method == "lora")


def test_layer_decay_gives_the_table_the_stem_s_rate():
    stage = vocab_stage(layer_decay=0.5)
    assert stage.spec.trainable["stem/word/embedding"].depth == 3
    assert stage.spec.trainable["head/bias"].depth == 0


@pytest.mark.parametrize("change", [{"accumulate": 4}, {"remat": ("stem", "block_.*", "head")}])
def test_slices_and_rematerialisation_give_the_same_step(change):
    # The counts of the slices differ: their gradients are weighed by them.
    plain, changed = (vocab_stage(optimizer="sgd", lr=0.1, momentum=0.0, **fields) for fields in ({}, change))
    batch = one_batch(plain)
    assert len({int(n) for n in (batch["masked"] != NONE).sum(1)}) > 1
    (_, wanted, metrics), (_, found, others) = stepped(plain, batch), stepped(changed, batch)
    for path, leaf in wanted.items():
        np.testing.assert_allclose(found[path], leaf, atol=1e-6, err_msg=path)
    for name, value in metrics.items():
        np.testing.assert_allclose(others[name], value, rtol=1e-5, err_msg=name)


def test_low_precision_scores_in_float32():
    stage = vocab_stage(compute_dtype="bfloat16")
    batch, (params, _) = one_batch(stage), tiny.draw(stage.spec.port, 1)
    training = Training(key=jax.random.key(0), live=stage.spec.live, eval_norms=frozenset())
    outputs, _ = stage.spec.model.apply(params, {}, batch, training=training)
    assert outputs.dtype == jnp.float32 and outputs.shape == (8, 7, 23)


def test_a_model_of_images_is_refused():
    settings = config.load("configs/digits.py:tiny", {"task.name": "masked_lm"})
    with pytest.raises(
        InputError, match="task 'masked_lm' needs a model with the head 'vocab', model 'resnet' has pooled"
    ):
        make_port(config.resolve(settings), 10)


@pytest.mark.system
def test_a_run_needs_no_labels_and_predicts_nothing(tmp_path):
    result = jaxfer.run(phrases(**{"parallel.devices": 1, "model.pool": "mean"}), tmp_path / "run", quiet=True)
    val = result["metrics"]["val"]
    assert set(val) == {"loss", "token_accuracy", "perplexity"}
    assert val["perplexity"] == pytest.approx(np.exp(val["loss"]))
    assert jaxfer.evaluate(tmp_path / "run") == pytest.approx(val)
    for name in ("hf", "sentence-transformers"):
        with pytest.raises(
            InputError, match="a vocab head is not exported; give the run to another one with config.init"
        ):
            jaxfer.export(tmp_path / "run", format=name)
    with pytest.raises(
        InputError, match="task 'masked_lm' has no answers to print; measure the run with `jaxfer eval`"
    ):
        predict(tmp_path / "run", ["a good film"], text=True)


def adapted(steps=(2, 2), **overrides):
    settings = config.load("configs/radiology_lm.py:tiny")
    for name, count in zip(settings.stages, steps, strict=True):
        settings.stage[name].steps = count
    return config.override(settings, {"parallel.devices": 1, **overrides})


@pytest.mark.system
def test_a_stage_s_own_task(tmp_path):
    result = jaxfer.run(adapted(), tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    val = {line["step"]: line for line in lines if line["split"] == "val"}
    assert {step: "perplexity" in line for step, line in val.items()} == {1: True, 2: True, 3: False, 4: False}
    # The best is one of the last task's, whose metrics the result has.
    assert result["checkpoint_step"] in (3, 4) and "accuracy" in result["metrics"]["val"]
    assert jaxfer.evaluate(tmp_path / "run") == pytest.approx(result["metrics"]["val"])
    (left,) = result["lineage"]["stages"]
    assert (left["name"], left["task"]) == ("adapt", "masked_lm")
    # The pooler is no part of a vocab head: it is drawn with the classifier.
    leaves = {f"params/head/{part}/{leaf}" for part in ("pooler", "out") for leaf in ("kernel", "bias")}
    assert set(left["next_head"]) == leaves
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["stage"]["adapt"]["task"] == "masked_lm" and "task" not in stored["stage"]["full"]
    assert jaxfer.run(adapted(), tmp_path / "run", quiet=True) == result  # nothing left to do


def test_the_backbone_is_carried_and_the_head_is_the_seed_s(tmp_path):
    """A second stage at rate 0 holds the first one's backbone, and the head that a run without it begins with."""
    overrides = {"stage.full.lr": 0.0, "stage.full.lr_rules": (), "select": "last"}
    jaxfer.run(adapted(**overrides), tmp_path / "both", quiet=True)
    plain = config.load("configs/radiology_lm.py:tiny,plain", {"parallel.devices": 1, **overrides})
    jaxfer.run(plain, tmp_path / "one", quiet=True)
    found, plain = (flatten(open_run(tmp_path / name).state.params) for name in ("both", "one"))
    moved = {path for path, leaf in plain.items() if (np.asarray(leaf) != np.asarray(found[path])).any()}
    assert found.keys() == plain.keys()
    assert "block_0/mlp/fc1/kernel" in moved and all(path.startswith("block_0/") for path in moved)


@pytest.mark.system
@pytest.mark.parametrize("task", ["classification", "masked_lm"])
def test_a_run_starts_from_a_masked_one(task, tmp_path):
    jaxfer.run(phrases(**{"parallel.devices": 1}), tmp_path / "first", quiet=True)
    source = f"run:{tmp_path / 'first'}"
    following = {"init": source, "task.name": task, "lr": 0.0, "parallel.devices": 1}
    jaxfer.run(phrases(**following), tmp_path / "second", quiet=True)
    ledger = json.loads((tmp_path / "second" / "ledger.json").read_text())
    heads = {entry.get("why") for leaf, entry in ledger["leaves"].items() if leaf.startswith("params/head/")}
    assert heads == ({None} if task == "masked_lm" else {"the source has a vocab head"})
    assert len(ledger["unused"]) == (0 if task == "masked_lm" else 5)
    first, second = (flatten(open_run(tmp_path / name).state.params) for name in ("first", "second"))
    for path in first.keys() & second.keys():
        np.testing.assert_array_equal(first[path], second[path])
    if task == "classification":
        with pytest.raises(InputError, match="config.head=keep: the source has a vocab head, not a pooled one; set"):
            jaxfer.run(phrases(**following, head="keep"), tmp_path / "third", quiet=True)


@pytest.mark.system
def test_a_resumed_run_crosses_the_boundary_alike(tmp_path):
    whole = jaxfer.run(adapted((2, 3)), tmp_path / "whole", quiet=True)
    jaxfer.run(adapted((2, 1)), tmp_path / "parts", quiet=True)
    parts = jaxfer.run(adapted((2, 3), **{"stage.full.schedule": "constant"}), tmp_path / "constant", quiet=True)
    assert whole["lineage"]["stages"] == parts["lineage"]["stages"]
    resumed = jaxfer.run(adapted((2, 3)), tmp_path / "parts", quiet=True)
    assert resumed["steps"] == 5 and resumed["lineage"]["stages"] == whole["lineage"]["stages"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stage.adapt.task": "maskedlm"}, "unknown task 'maskedlm'; nearest: 'masked_lm'"),
        ({"stage.full.task": "masked_lm"}, "config.stage.full.task: the last stage trains config.task, found 'masked_"),
        ({"stage.adapt.task": "regression"}, "task 'regression' needs real targets, the data has 3 classes"),
    ],
)
def test_wrong_tasks_of_stages(overrides, message, tmp_path):
    with pytest.raises(InputError, match=message):
        jaxfer.run(adapted(**overrides), tmp_path, quiet=True)

"""Planted copies and classes of unequal size are found, and nothing severe is said of clean data."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from PIL import Image

import jaxfer
import jaxfer.config
from jaxfer.commands import main
from jaxfer.data.split import Split
from jaxfer.diagnosis import classes, duplicates, near
from jaxfer.diagnosis.opened import dhash
from jaxfer.errors import InputError
from tests.experiments import TOKENIZER, tiny_config

KINDS = ("copies_across_splits", "copies_within_split", "copies_with_other_labels")


def by_kind(diagnosis):
    """The first finding of each kind; whatever is found can be printed, as JSON too."""
    assert diagnosis.text() and json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))["counts"]
    return {finding.kind: finding for finding in reversed(diagnosis.findings)}


def photos(folder, change=None):
    """24 smooth photos a class, 8 for val and test each; `change` edits {split: images}, {split: labels}."""
    rng = np.random.default_rng(0)
    images, labels = {}, {}
    for split, count in (("train", 48), ("val", 16), ("test", 16)):
        waves = rng.integers(0, 256, (count, 5, 5, 3), np.uint8)
        grown = [np.asarray(Image.fromarray(wave).resize((24, 24), Image.Resampling.BICUBIC)) for wave in waves]
        noise = rng.integers(0, 40, (count, 24, 24, 3))
        images[split], labels[split] = np.clip(np.array(grown) + noise, 0, 255).astype(np.uint8), np.arange(count) % 2
    if change:
        change(images, labels)
    arrays = {f"{split}_image": images[split] for split in images}
    np.savez(folder / "photos.npz", **arrays, **{f"{split}_label": labels[split] for split in labels})
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1, 1), width=4, stem="cifar", image=(24, 24, 3))
    config.data = dict(source="npz", path=str(folder / "photos.npz"))
    config.update(batch_size=4, steps=12)
    return config


def test_clean_data_have_nothing_severe(tmp_path):
    diagnosis = jaxfer.doctor(photos(tmp_path), quiet=True)
    assert not diagnosis.counts["severe"] and not set(KINDS) & by_kind(diagnosis).keys()
    assert not [kind for kind in by_kind(diagnosis) if "copies" in kind]
    assert diagnosis.examples == {"train": 48, "val": 16, "test": 16}


def test_planted_copies(tmp_path):
    """Exact ones across and within splits, one with another label, and a brighter one with noise."""

    def change(images, labels):
        images["test"][3] = images["train"][6]
        images["train"][9] = images["train"][4]  # labels 1 and 0
        images["val"][2] = np.clip(images["train"][11] * 0.9 + 20 + np.arange(24)[:, None] % 2, 0, 255)

    diagnosis = jaxfer.doctor(photos(tmp_path, change), quiet=True)
    found = by_kind(diagnosis)
    across = found["copies_across_splits"]
    assert (across.severity, across.value, across.threshold) == ("severe", 1 / 16, 0.01)
    assert [(e.split, e.row, e.says) for e in across.examples] == [("test", 3, "as train 6")]
    within = found["copies_within_split"]
    assert (within.severity, within.value) == ("warning", 1 / 48)
    assert [(e.split, e.row, e.says) for e in within.examples] == [("train", 9, "as train 4")]
    wrong = found["copies_with_other_labels"]
    assert (wrong.severity, wrong.value) == ("severe", 2)
    assert [(e.row, e.says) for e in wrong.examples] == [(4, "train 4 is 0, train 9 is 1 there")]
    near = found["near_copies_across_splits"]
    assert (near.severity, near.value) == ("warning", 1 / 16)
    assert [(e.split, e.row, e.says) for e in near.examples] == [("val", 2, "as train 11")]
    assert diagnosis.findings[0].severity == "severe" and "2 severe" in diagnosis.text().splitlines()[-1]


def test_labels_of_test_are_not_read(tmp_path, monkeypatch):
    """Not even where the config opens the split."""
    config = photos(tmp_path)
    config.test = True
    looked = []
    labels = Split.labels.func
    monkeypatch.setattr(Split, "labels", property(lambda self: looked.append(self.unlabelled) or labels(self)))
    jaxfer.doctor(config, quiet=True)
    assert looked and config.test  # the caller's config stays as it is

    def wrong(images, labels):
        labels["test"] = 1 - labels["test"]

    first, second = (jaxfer.doctor(photos(tmp_path, change), quiet=True).findings for change in (None, wrong))
    assert first == second


def test_texts(tmp_path):
    """Equal for the model: exact, whatever the text; else equal but for case, punctuation and spaces."""
    rows = [("good films and songs", "good"), ("bad plots", "bad"), ("the plots was bad", "bad"), ("very good", "good")]
    rows += [("plain songs was", "plain"), ("the films", "plain"), ("bad plots", "bad"), ("good film", "good")]
    rows += [("the plot", "plain"), ("bad song", "bad")]
    train = "".join(f"{text}\t{label}\n" for text, label in rows)
    (tmp_path / "train.tsv").write_text(f"text\tlabel\n{train}")
    (tmp_path / "val.tsv").write_text("text\tlabel\nThe plots was bad.\tbad\nthe very good films\tgood\nplain\tplain\n")
    config = tiny_config("bert_pooler", steps=2, batch_size=4)
    config.data.path = str(tmp_path)
    config.model.update(tokenizer=TOKENIZER, max_length=6, buckets=(6,))
    found = by_kind(jaxfer.doctor(config, quiet=True))
    assert [(e.split, e.row, e.says) for e in found["copies_within_split"].examples] == [
        ("train", 6, "as train 1 bad plots")
    ]
    (near,) = found["near_copies_across_splits"].examples
    assert (near.split, near.row, near.name, near.says) == (
        "val",
        0,
        "The plots was bad.",
        "as train 2 the plots was bad",
    )
    assert "copies_across_splits" not in found  # "the plots was" is all that the model reads of both
    assert duplicates.normalised(" It's  A\tTEST... ") == "it s a test"


def test_difference_hash():
    """A ramp to the right is brighter everywhere, one to the left nowhere; the bits are row by row."""
    ramp = np.tile(np.arange(9, dtype=np.float32), (8, 1))
    assert dhash(ramp) == 2**64 - 1 and dhash(-ramp) == 0
    half = np.where(np.arange(8)[:, None] < 4, ramp, -ramp)
    assert dhash(half) == (2**32 - 1) << 32
    assert dhash(3 * ramp + 20) == dhash(ramp)


def test_texts_that_share_most_words():
    """By hand: 12 of 14 words are in both of the first two, 12 of 15 of the last; one of seven words is too short."""
    given = ["a b c d e f g h i j k l m", "a b c d e f g h i j k l n", "a b c d e f g h i j k l o p", "q r s t u v w"]
    sets = [frozenset(text.split()) for text in [*given, "q r s t u v w"]]
    assert [*duplicates.sharing(sets)] == [(0, 1)]
    rng = np.random.default_rng(0)
    sets = [frozenset(rng.integers(0, 14, 13).tolist()) for _ in range(300)]
    jaccard = {(i, j): len(a & b) / len(a | b) for (i, a), (j, b) in itertools.combinations(enumerate(sets), 2)}
    enough = {(i, j) for (i, j), index in jaccard.items() if index >= 0.85 and min(map(len, (sets[i], sets[j]))) >= 8}
    assert enough == {*duplicates.sharing(sets)} and 50 < len(enough) < len(jaccard)


def test_vectors_that_are_close():
    """Ten points a step apart, and one that is a tenth of a step from the third."""
    x = np.append(np.arange(10.0), 2.1)[:, None]
    assert near.close(x) == [(2, 10)]
    assert near.close(np.repeat(np.arange(5.0), 2)[:, None]) == []  # where all have a copy, none is near


def test_runs():
    """0 0 0 1 1 1: E = 7 - 18/6 = 4 and Var = (18 (18 + 42) - 2 6 54 - 216) / (36 5) = 1.2."""
    assert classes.runs_z(np.array([0, 0, 0, 1, 1, 1])) == pytest.approx(-2 / np.sqrt(1.2), abs=1e-12)
    # The mean and the variance of all orders of 0 0 1 1 2: of classes more than two.
    orders = np.array(sorted(set(itertools.permutations([0, 0, 1, 1, 2]))))
    z = np.array([classes.runs_z(order) for order in orders])
    assert z.mean() == pytest.approx(0, abs=1e-12) and z.var() == pytest.approx(1, abs=1e-12)
    assert classes.runs_z(np.zeros(5, int)) == 0


def test_classes(tmp_path):
    def change(images, labels):
        labels["train"] = np.sort(np.where(np.arange(48) < 3, 1, 0))
        labels["val"][:] = 0

    found = by_kind(jaxfer.doctor(photos(tmp_path, change), quiet=True))
    assert (found["imbalance"].severity, found["imbalance"].value) == ("warning", 15)
    assert "0 has 45 training examples, 1 3: 15 times as many" in found["imbalance"].message
    assert (found["few_examples"].value, found["few_examples"].threshold) == (3, 5)
    assert found["absent_class"].message == "val has no example of 1 of 2 classes: 1."
    assert found["order"].severity == "note" and found["order"].value < -5
    assert found["small_val"].value == 16


def test_the_command(tmp_path, capsys):
    config = photos(tmp_path)
    file = tmp_path / "c.py"
    file.write_text(
        "import jaxfer.config\n\n\ndef get_config(arg=''):\n    config = jaxfer.config.base()\n"
        f"    config.model = {config.model.to_dict()!r}\n    config.data = {config.data.to_dict()!r}\n"
        "    config.update(batch_size=4, steps=12)\n    return config\n"
    )
    assert main(["doctor", str(file), "--json", "--examples=10", "--config.steps=13"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"] == str(file) and found["versions"]["jaxfer"]
    assert found["command"] == {"config": str(file), "overrides": {"steps": "13"}, "examples": 10}
    assert jaxfer.doctor(config, examples=10, quiet=True).to_dict()["command"] is None
    (sampled,) = [one for one in found["findings"] if one["kind"] == "sampled"]
    assert sampled["examples"][0] == {"split": "train", "name": "", "says": "38 were not looked at"}
    assert found["examples"] == {"train": 10, "val": 10, "test": 10} and found["counts"]["severe"] == 0
    assert {"severity", "kind", "message", "fix", "value", "threshold", "examples"} == found["findings"][0].keys()
    assert [one["kind"] for one in found["findings"]][-1] == "sampled"
    assert main(["doctor", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 severe, ")


def test_a_plan_that_trains_nothing_is_a_finding(tmp_path, capsys):
    file = tmp_path / "c.py"
    config = photos(tmp_path)
    file.write_text(
        "import jaxfer.config\n\n\ndef get_config(arg=''):\n    config = jaxfer.config.base()\n"
        f"    config.model = {config.model.to_dict()!r}\n    config.data = {config.data.to_dict()!r}\n"
        "    config.update(batch_size=4, steps=12, freeze=('.*',))\n    return config\n"
    )
    assert main(["doctor", str(file)]) == 0  # as with every finding; `run` refuses this config
    out = capsys.readouterr().out
    assert out.startswith("severe   nothing_trained: Stage train would train no parameter: everything is frozen.\n")
    assert out.splitlines()[-1].startswith("1 severe, ")
    assert main(["run", str(file), f"--workdir={tmp_path / 'run'}"]) == 2
    assert "nothing would be trained; loosen freeze" in capsys.readouterr().err


def test_bad_arguments():
    with pytest.raises(InputError, match="--examples: expected a number of examples of a split, found -1"):
        jaxfer.doctor(tiny_config("resnet_basic"), examples=-1)
    with pytest.raises(InputError, match="expected a config"):
        jaxfer.doctor(None)

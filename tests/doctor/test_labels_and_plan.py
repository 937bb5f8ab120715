"""Labels that are planted wrong are found on raw and on frozen features; plans that can't do much are told."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

import jaxfer
from jaxfer.diagnosis import labels, out_of_sample
from tests.doctor.test_duplicates_and_classes import by_kind
from tests.experiments import tiny_config


def test_confident_learning_by_hand():
    """Thresholds (0.7, 0.6); the third example, labelled 0, reaches that of class 1, and the last reaches neither."""
    chances = np.array(
        [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.8, 0.2], [0.2, 0.8], [0.4, 0.6], [0.45, 0.55], [0.55, 0.45]]
    )
    given = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    found = labels.confident(chances, given)
    # C = [[3, 1], [0, 2]], scaled to 4 labels each: [[3, 1], [0, 4]] of 8.
    np.testing.assert_allclose(found.joint, [[3 / 8, 1 / 8], [0, 4 / 8]], atol=1e-12)
    assert found.share == pytest.approx(1 / 8) and found.suspects.tolist() == [2] and found.other[2] == 1


def test_the_most_suspicious_first():
    """By the probability of the given label less the largest other one."""
    chances = np.array([[0.95, 0.05], [0.9, 0.1], [0.1, 0.9], [0.02, 0.98], [0.05, 0.95], [0.1, 0.9], [0.97, 0.03]])
    found = labels.confident(chances, np.array([0, 0, 0, 0, 1, 1, 1]))
    assert found.suspects.tolist() == [3, 6, 2]


def test_a_class_of_which_none_counts_is_taken_as_it_is():
    chances = np.array([[0.9, 0.1], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    found = labels.confident(chances, np.array([0, 0, 0, 0, 1]))
    assert np.isfinite(found.joint).all() and found.joint.sum() == pytest.approx(1)


def clusters(n=200, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    true = np.arange(n) % 3
    x = rng.normal(size=(n, 6)) + 5 * np.eye(3, 6)[true]
    wrong = rng.permutation(n)[: int(noise * n)]
    given = true.copy()
    given[wrong] = (true[wrong] + rng.integers(1, 3, len(wrong))) % 3
    return x, given, wrong


def test_planted_labels_in_clusters():
    """20 of 200 labels are wrong: the estimate is near, and the suspects are among them."""
    x, given, wrong = clusters()
    found = labels.confident(out_of_sample.chances(x, given), given)
    assert found.share == pytest.approx(0.1, abs=0.02)
    assert len(set(found.suspects) & set(wrong)) >= 15 and not set(found.suspects) - set(wrong)
    x, given, _ = clusters(noise=0)
    assert labels.confident(out_of_sample.chances(x, given), given).share < 0.01


def test_texts_are_told_by_their_words():
    words, given = np.array(["a red rose", "a blue sky"] * 20, object), np.arange(40) % 2
    given[6] = 1
    found = labels.confident(out_of_sample.chances(words, given), given)
    assert found.suspects.tolist() == [6]


def digits(tmp_path, wrong=0):
    pixels, given = load_digits(return_X_y=True)
    pixels, given = (pixels.reshape(-1, 8, 8) * 15).astype(np.uint8), given.astype(np.int64)
    kept = np.flatnonzero(given < 4)[:480]
    pixels, given = pixels[kept], given[kept]
    rows = np.random.default_rng(0).permutation(400)[:wrong]
    given[rows] = (given[rows] + 1) % 4
    arrays = dict(train_image=pixels[:400], train_label=given[:400], val_image=pixels[400:], val_label=given[400:])
    np.savez(tmp_path / "digits.npz", **arrays)
    config = tiny_config("resnet_basic", steps=100, batch_size=8)
    config.model.image = (8, 8, 1)
    config.data = dict(source="npz", path=str(tmp_path / "digits.npz"))
    return config, rows


def test_planted_labels_of_digits(tmp_path):
    """24 of 400 real digits: a warning that names them; none where none is planted, and nothing severe."""
    config, rows = digits(tmp_path, wrong=24)
    found = by_kind(jaxfer.doctor(config, quiet=True))["label_issues"]
    assert found.severity == "warning" and found.value == pytest.approx(24 / 400, abs=0.02)
    assert {e.row for e in found.examples} <= set(rows.tolist())
    assert "labelled" in found.examples[0].says and "raw pixels" in found.message
    config, _ = digits(tmp_path)
    clean = jaxfer.doctor(config, quiet=True)
    assert not clean.counts["severe"] and clean.counts["warning"] == 0, clean.text()


@pytest.mark.system
def test_frozen_features_of_a_run(tmp_path):
    config, _ = digits(tmp_path, wrong=24)
    jaxfer.run(digits(tmp_path)[0], tmp_path / "source", quiet=True)
    digits(tmp_path, wrong=24)
    config.update(init=f"run:{tmp_path / 'source'}", head="reset")
    found = by_kind(jaxfer.doctor(config, quiet=True))["label_issues"]
    assert f"the frozen features of run:{tmp_path / 'source'}" in found.message


@pytest.mark.system
def test_frozen_features_of_rows(tmp_path):
    """A table's model takes its means and its categories from the source."""
    config = tiny_config("row_mlp", steps=2, lr=1e-3)
    config.model = dict(name="row_mlp", width=4, mlp_width=6, embedding=2)
    jaxfer.run(config, tmp_path / "source", quiet=True)
    config.update(init="sibling:source", head="reset")
    diagnosis = jaxfer.doctor(config, place=tmp_path / "doctor", quiet=True)
    assert not {"labels_unchecked", "features_unread"} & by_kind(diagnosis).keys()


def test_a_source_that_is_not_there_is_no_failure(tmp_path):
    config = tiny_config("resnet_basic", init="sibling:none", head="reset")
    found = by_kind(jaxfer.doctor(config, place=tmp_path / "x", quiet=True))["features_unread"]
    assert found.severity == "note" and "none" in found.message


def test_the_plan():
    config = tiny_config("resnet_basic", method="full", lr=0.5, steps=4, batch_size=8, warmup=3)
    config.freeze = ("(?!head).*",)
    found = by_kind(jaxfer.doctor(config, quiet=True))
    assert (found["rate"].severity, found["rate"].value) == ("severe", 0.5)
    assert "167 times above those that method full is tuned over, 0.0001 to 0.003" in found["rate"].message
    assert found["only_head"].severity == "warning"
    assert (found["warmup"].value, found["warmup"].threshold) == (0.75, 0.5)
    epochs = found["part_of_an_epoch"]
    assert epochs.value < 1 and "4 steps of 8 see" in epochs.message
    config = tiny_config("resnet_basic", method="full", lr=1e-3, steps=8, batch_size=8, warmup=1)
    assert not {"rate", "only_head", "warmup", "part_of_an_epoch"} & by_kind(jaxfer.doctor(config, quiet=True)).keys()
    config.lr = 1e-6
    assert by_kind(jaxfer.doctor(config, quiet=True))["rate"].severity == "severe"


def test_stages_that_train_nothing():
    """`run` refuses a stage in which everything is frozen; doctor says so and looks at the rest."""
    config = tiny_config("resnet_basic", steps=8, batch_size=8, freeze=(".*",))
    found = jaxfer.doctor(config, quiet=True).findings
    (nothing,) = [finding for finding in found if finding.kind == "nothing_trained"]
    assert (
        nothing.severity == "severe"
        and nothing.message == "Stage train would train no parameter: everything is frozen."
    )
    assert nothing.fix == "loosen config.freeze or config.freeze_units" and len(found) > 1
    assert config.freeze == (".*",)  # the caller's
    config = tiny_config("resnet_basic", steps=8, batch_size=8, lr=0.0)
    config.update(stages=("first", "frozen", "still"))
    config.stage = dict(first=dict(lr=1e-3), frozen=dict(freeze=(".*(kernel|bias)",), norms=((".*", "stats_only"),)))
    found = [finding for finding in jaxfer.doctor(config, quiet=True).findings if finding.kind == "nothing_trained"]
    assert {finding.message.split(":")[0] for finding in found} == {
        "Stage frozen would train no parameter",
        "Stage still would train no parameter",
    }
    assert {finding.fix for finding in found} >= {
        "raise config.stage.still.lr, or a rate of config.stage.still.rates or config.stage.still.lr_rules"
    }
    assert "rate" not in {finding.kind for finding in found}


def test_the_rate_of_each_group():
    """A probe's grid is its own; a group that does not train, or that is told not to, has no rate to speak of."""
    config = tiny_config("resnet_basic", method="full", steps=8, batch_size=8, warmup=1)
    config.rates = {"backbone": 5.0, "head": 0.05}
    findings = {f.severity: f for f in jaxfer.doctor(config, quiet=True).findings if f.kind == "rate"}
    assert findings.keys() == {"severe", "warning"}
    assert "the rate of group backbone, 5 is 1.67e+03 times above" in findings["severe"].message
    assert findings["severe"].fix.startswith("set config.rates.backbone within them")
    assert [(e.name, e.says) for e in findings["warning"].examples] == [("config.rates.head", "0.05")]
    assert (findings["warning"].value, findings["warning"].threshold) == (0.05, pytest.approx(0.03))
    config.rates = {"backbone": 0.0, "head": 1e-3}
    assert "rate" not in by_kind(jaxfer.doctor(config, quiet=True))
    config.rates, config.freeze = {"backbone": 5.0, "head": 1e-3}, ("(?!head).*",)
    assert "rate" not in by_kind(jaxfer.doctor(config, quiet=True))


def test_a_method_without_rates_has_none_to_look_at():
    config = tiny_config("resnet_basic", method="adabn", steps=8, batch_size=8)
    config.options = {"examples": "training"}
    assert "rate" not in by_kind(jaxfer.doctor(config, quiet=True))


def test_a_probe_trains_the_head_and_that_is_right():
    config = tiny_config("resnet_basic", method="probe", steps=8, batch_size=8)
    assert "only_head" not in by_kind(jaxfer.doctor(config, quiet=True))


def notes(tmp_path, wrong=0):
    """240 texts of two of twelve words, and the sets of labels that these words tell; some labels are turned."""
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(12)]
    pairs = np.array([rng.choice(12, 2, replace=False) for _ in range(300)])
    sets = np.stack([(pairs < 4).any(1), (pairs > 8).any(1)], 1)
    turned = rng.permutation(240)[:wrong]
    sets[turned, np.arange(wrong) % 2] ^= True
    for name, rows in (("train", slice(240)), ("dev", slice(240, 300))):
        lines = ["text\tlabels"]
        for pair, given in zip(pairs[rows], sets[rows], strict=True):
            own = [tag for tag, has in zip(("low", "high"), given, strict=True) if has]
            lines.append(f"{' '.join(words[i] for i in pair)}\t{';'.join(own)}")
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    config = tiny_config("bert_pooler", steps=2)
    config.task.name = "multilabel"
    config.data = dict(source="table", path=str(tmp_path), label="labels", target="labels")
    return config, turned


def test_planted_labels_of_sets(tmp_path):
    """12 of 480: what is found is planted, and the share is near that of the labels given; without any, none is."""
    config, turned = notes(tmp_path, wrong=12)
    found = by_kind(jaxfer.doctor(config, quiet=True))["label_issues"]
    assert found.severity == "warning" and "tells 2 of 2 labels" in found.message
    assert {e.row for e in found.examples} <= set(turned.tolist()) and len(found.examples) == 5
    says = {e.says.split(" is ")[1] for e in found.examples}
    assert says <= {"given, looks absent", "absent, looks given"}
    assert found.value == pytest.approx(12 / 270, abs=0.02)
    clean = by_kind(jaxfer.doctor(notes(tmp_path)[0], quiet=True))
    assert "label_issues" not in clean or clean["label_issues"].severity == "note"
    assert "labels_unchecked" not in clean
    pilot = clean["pilot"]
    assert pilot.severity == "note" and pilot.value > 0.95 and pilot.threshold == pytest.approx(0.51, abs=0.05)
    assert "macro AUPRC from 192 labels" in pilot.message and "twice as many" in pilot.message
    assert {example.name for example in pilot.examples} == {"low", "high"}


def test_a_label_that_few_have_is_not_looked_at(tmp_path):
    config, _ = notes(tmp_path)
    text = (tmp_path / "train.tsv").read_text().replace("low", "x").replace("high", "x").splitlines()
    lines = [text[0], *(line.split("\t")[0] + "\t" for line in text[1:-6]), *(f"word{i}\tx" for i in range(4)), "a\ty"]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "dev.tsv").write_text("text\tlabels\nword1\tx\nword2\ty\n")
    found = by_kind(jaxfer.doctor(config, quiet=True))
    assert "expected a label that 5 training examples have and 5 lack" in found["labels_unchecked"].message

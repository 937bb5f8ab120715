"""Outliers, drift, gaps between domains and a pilot: values by hand, and what is planted in real digits is found."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

import jaxfer
from jaxfer.diagnosis import drift, out_of_sample, outliers, pilot
from tests.doctor.test_duplicates_and_classes import by_kind
from tests.experiments import tiny_config


def test_mmd_by_hand():
    """Gretton et al., eq. 3, pair by pair."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 3)), rng.normal(size=(7, 3)) + 0.4
    x = np.concatenate([a, b])
    squares = [np.sum((x[i] - x[j]) ** 2) for i in range(14) for j in range(i + 1, 14)]

    def kernel(u, v):
        return np.exp(-np.sum((u - v) ** 2) / np.median(squares))

    within = [sum(kernel(s[i], s[j]) for i in range(7) for j in range(7) if i != j) / 42 for s in (a, b)]
    expected = sum(within) - 2 * sum(kernel(u, v) for u in a for v in b) / 49
    found, p = drift.mmd(a, b)
    assert found == pytest.approx(expected, abs=1e-12) and 0 < p <= 1


def test_gaps_of_normals():
    """Two draws of one distribution can't be told apart; of two far from each other no example is mistaken."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(120, 4)), rng.normal(size=(90, 4))
    near = drift.gap(a, b)
    assert near.auc < 0.6 and near.distance < 0.3 and near.p > 0.05 and near.examples == 90
    far = drift.gap(a, b + 6)
    assert far.auc == 1 and far.distance == 2 and far.half == 0 and far.p == 1 / 200


def test_texts_of_two_kinds():
    plain = np.array([f"the game number {i} was won at home" for i in range(60)], object)
    other = np.array([f"court ruling number {i} on tax law" for i in range(60)], object)
    assert drift.gap(plain, other).distance > 1.9
    assert drift.gap(plain, plain.copy()).auc < 0.6


def test_what_is_unlike_all_others():
    """Two points in other directions than a bundle of 60; by hand, the cosine of one of two at right angles is 0."""
    rng = np.random.default_rng(0)
    x = np.eye(12)[0] + 0.05 * rng.normal(size=(62, 12))
    x[[5, 40]] = np.eye(12)[[1, 2]]
    ratios, others = outliers.remoteness(x, x[:7] + np.eye(12)[11] * 9)
    assert (others > outliers.RATIO).all()
    assert np.flatnonzero(ratios >= outliers.RATIO).tolist() == [5, 40] and ratios[5] > 30
    assert np.median(ratios) == pytest.approx(1)
    assert not outliers.remoteness(np.ones((30, 3)))[0].any()


def test_a_power_law_is_continued():
    counts = [50, 100, 200, 400]
    errors = [0.8 * n**-0.5 + 0.1 for n in counts]
    assert pilot.extrapolated(counts, errors, 800) == pytest.approx(0.8 * 800**-0.5 + 0.1, abs=1e-9)
    assert pilot.extrapolated(counts, [0.2] * 4, 800) == pytest.approx(0.2)


def test_folds_share_each_class_out_and_are_of_one_size():
    labels = np.array([0] * 41 + [1] * 23 + [2] * 6)
    for part in (1.0, 0.25, 0.01):
        found = out_of_sample.folds(labels, part)
        assert len({len(rows) for rows, _ in found}) == 1
        assert sorted(np.concatenate([held for _, held in found])) == [*range(70)]
        for rows, held in found:
            assert not {*rows} & {*held}
            counts = np.bincount(labels[rows])
            assert counts.tolist() == [max(1, round(part * n)) for n in (32, 18, 4)]


def beside(inputs):
    """What a pilot reads of the opened data: the raw inputs [n, d]."""
    encoding = SimpleNamespace(features="pixels", flat=lambda rows: inputs[rows])

    def told(name, rows, says):
        return tuple((name, int(row), says(int(row))) for row in rows[:5])

    return SimpleNamespace(splits={"train": SimpleNamespace(take=lambda rows: rows)}, encodings=(encoding,), some=told)


READ = "the frozen features of x"


def test_features_that_say_less_than_the_inputs():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    inputs = rng.normal(size=(200, 5)) + 2 * labels[:, None]
    noise = rng.normal(size=(200, 5))
    found = {f.kind: f for f in pilot.check(beside(inputs), noise, labels, [*"ab"], READ)}
    assert found["worse_than_inputs"].severity == "warning" and found["worse_than_inputs"].value < -0.3
    assert {says for _, _, says in found["worse_than_inputs"].examples} == {"told by the raw pixels alone"}
    assert found["pilot"].threshold > 0.95 > found["pilot"].value  # that of the inputs
    assert {example.name for example in found["pilot"].examples} == {"a", "b"}
    assert "the largest class is 50.0 %" in found["pilot"].message and "twice as many" in found["pilot"].message
    found = [*pilot.check(beside(inputs), inputs, labels, [*"ab"], "the raw pixels")]
    assert [finding.kind for finding in found] == ["pilot"] and found[0].value > 0.95 and found[0].threshold == 0.5


def test_a_pilot_of_values():
    """y = x0 + noise, of variances 4 and 1: what is explained is 4/5. One value is far off."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(900, 5)) * [2, 1, 1, 1, 1]
    values = (inputs[:, 0] + rng.normal(size=900)).astype(np.float32)
    values[7] = 30
    (found,) = pilot.of_values(beside(inputs), inputs, values, "the raw pixels")
    assert found.value == pytest.approx(0.8, abs=0.1) and found.threshold == 0
    assert "from 720 labels" in found.message and "with the mean it is 0.0 %" in found.message
    assert "twice as many" in found.message and found.examples[0][:2] == ("train", 7)
    noise = rng.normal(size=(900, 5))
    less = {f.kind: f for f in pilot.of_values(beside(inputs), noise, values, READ)}
    assert less["pilot"].value == pytest.approx(0, abs=0.05) and less["pilot"].threshold == found.value
    assert less["worse_than_inputs"].value == pytest.approx(less["pilot"].value - found.value)
    assert {says for _, _, says in less["worse_than_inputs"].examples} == {"closer by the raw pixels"}
    assert not [*pilot.of_values(beside(inputs), inputs, np.ones(900), READ)]
    assert not [*pilot.of_values(beside(inputs), inputs[:19], values[:19], READ)]


def test_a_pilot_of_texts_with_values():
    words = np.array([f"{'good' if i % 2 else 'bad'} film number {i}" for i in range(200)], object)
    found = out_of_sample.of_values(words, np.arange(200) % 2 * 3.0)
    assert np.abs(found - np.arange(200) % 2 * 3.0).mean() < 0.2


def test_a_pilot_of_sets():
    """Two labels that two inputs tell, and one of four examples, which is left out."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 5))
    given = np.stack([inputs[:, 0] > 0, inputs[:, 1] > 1, np.arange(300) < 4], 1).astype(int)
    (found,) = pilot.of_sets(beside(inputs), inputs, given, [*"abc"], "the raw pixels")
    assert found.value > 0.95 and found.threshold == pytest.approx(given[:, :2].mean())
    assert {example.name for example in found.examples} == {"a", "b"}
    less = {f.kind: f for f in pilot.of_sets(beside(inputs), rng.normal(size=(300, 5)), given, [*"abc"], READ)}
    assert less["worse_than_inputs"].severity == "warning" and less["worse_than_inputs"].value < -0.3
    assert not [*pilot.of_sets(beside(inputs), inputs, given[:, 2:], ["c"], READ)]


def digits(tmp_path, change=lambda train, val: None):
    """Real digits of four classes, with what `change` plants."""
    pixels, given = load_digits(return_X_y=True)
    kept = np.flatnonzero(given < 4)[:480]
    pixels, given = (pixels[kept].reshape(-1, 8, 8) * 15).astype(np.uint8), given[kept].astype(np.int64)
    train, val = pixels[:400].copy(), pixels[400:].copy()
    change(train, val)
    np.savez(tmp_path / "d.npz", train_image=train, train_label=given[:400], val_image=val, val_label=given[400:])
    config = tiny_config("resnet_basic", steps=100, batch_size=8)
    config.model.image = (8, 8, 1)
    config.data = dict(source="npz", path=str(tmp_path / "d.npz"))
    return config


def test_planted_outliers_and_a_planted_shift(tmp_path):
    """Three images of stripes among digits, and a val that is rotated by 90 degrees."""

    def plant(train, val):
        train[:3] = np.array([255, 0, 0, 255, 0, 255, 255, 0])[:, None]
        val[:] = np.rot90(val, axes=(1, 2))

    found = by_kind(jaxfer.doctor(digits(tmp_path, plant), quiet=True))
    assert found["drift"].severity == "warning" and found["drift"].value > 0.9 and "val" in found["drift"].message
    clean = by_kind(jaxfer.doctor(digits(tmp_path), quiet=True))
    assert "drift" not in clean
    assert {0, 1, 2} <= {example.row for example in found["outliers"].examples}
    assert found["outliers"].severity == "warning" and clean["outliers"].severity == "note"


@pytest.mark.system
def test_the_gap_to_a_stream_and_to_the_source(tmp_path):
    """The source learned the digits as they are; the target's are darker, and the stream's are dark on white."""
    jaxfer.run(digits(tmp_path), tmp_path / "source", quiet=True)
    (tmp_path / "target").mkdir()

    def darker(train, val):
        train //= 2
        val //= 2

    config = digits(tmp_path / "target", darker)
    config.update(init="sibling:source", head="reset")
    (tmp_path / "white").mkdir()

    def white(train, val):
        train[:] = 255 - train

    config.stream.other = digits(tmp_path / "white", white).data
    diagnosis = jaxfer.doctor(config, place=tmp_path / "doctor", quiet=True)
    gaps = {f.message.split(": ")[0]: f.value for f in diagnosis.findings if f.kind == "domain_gap"}
    features = "The frozen features of sibling:source tell"
    assert gaps[f"{features} stream other from train"] == 2 and gaps[f"{features} the source's data from train"] > 1.5
    assert len(gaps) == 2 and not diagnosis.counts["severe"], diagnosis.text()
    (tmp_path / "d.npz").unlink()  # what the source was trained on
    gone = jaxfer.doctor(config, place=tmp_path / "doctor", quiet=True)
    said = {f.message.split(" was not")[0]: f.message for f in gone.findings if f.kind == "domain_unread"}
    assert list(said) == ["The gap to the source's data"] and "d.npz" in said["The gap to the source's data"]
    assert [f.message.split(" tell ")[1].split(" from")[0] for f in gone.findings if f.kind == "domain_gap"] == [
        "stream other"
    ]


@pytest.mark.system
def test_frozen_features_of_values(tmp_path):
    """Of a run that learned the digits as classes; here they are numbers."""
    source = digits(tmp_path)
    jaxfer.run(source, tmp_path / "source", quiet=True)
    arrays = {name: x.astype(np.float32 if x.ndim == 1 else x.dtype) for name, x in np.load(tmp_path / "d.npz").items()}
    np.savez(tmp_path / "values.npz", **arrays)
    source.data = dict(source="npz", path=str(tmp_path / "values.npz"), target="value")
    source.task.name = "regression"
    source.update(init="sibling:source", head="reset", method="probe")
    diagnosis = jaxfer.doctor(source, place=tmp_path / "doctor", quiet=True)
    pilot, kinds = by_kind(diagnosis)["pilot"], by_kind(diagnosis).keys()
    assert "the frozen features of sibling:source" in pilot.message and "raw pixels" in pilot.message
    assert pilot.value > 0.2 and "features_unread" not in kinds and not diagnosis.counts["severe"], diagnosis.text()


@pytest.mark.system
def test_frozen_features_of_sets(tmp_path):
    """Of a run that learned the phrases' class; here each has the words that it holds."""
    source = tiny_config("bert_pooler", steps=20)
    jaxfer.run(source, tmp_path / "source", quiet=True)
    rng = np.random.default_rng(0)
    words = np.array(["good", "bad", "film", "plot", "song", "very"])
    for name, count in (("train", 120), ("dev", 40)):
        own = [words[rng.permutation(6)[:3]] for _ in range(count)]
        lines = [f"{' '.join(text)}\t{';'.join(sorted({'bad', 'good'} & {*text}))}" for text in own]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["text\tlabels", *lines]))
    source.data = dict(source="table", path=str(tmp_path), label="labels", target="labels")
    source.task.name = "multilabel"
    source.update(init="sibling:source", head="reset", method="probe")
    diagnosis = jaxfer.doctor(source, place=tmp_path / "doctor", quiet=True)
    pilot, kinds = by_kind(diagnosis)["pilot"], by_kind(diagnosis).keys()
    assert "the frozen features of sibling:source" in pilot.message and "raw TF-IDF" in pilot.message
    assert pilot.value > 0.6 and "features_unread" not in kinds

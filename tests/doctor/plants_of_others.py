"""Faults of questions, patients and heartbeats."""

from __future__ import annotations

import numpy as np

from tests.doctor import real
from tests.doctor.plants import planting

PLANTS, planted = planting()


@planted(real.questions, "texts", "empty", "severe")
def no_word(small):
    for row in (3, 4):
        small.data["train"][row][0] = "? !"
    return {("train", 3), ("train", 4)}


@planted(real.questions, "texts", "cut", "warning")
def long_texts(small):
    for row in range(10, 20):
        small.data["train"][row][0] += " and how" * 40
    return {("train", row) for row in range(10, 20)}


@planted(real.questions, "texts", "unknown_tokens", "warning")
def another_script(small):
    for row in range(30, 45):
        small.data["val"][row][0] = "что такое осень это небо плачущее небо под ногами"
    return {("val", row) for row in range(30, 45)}


@planted(real.questions, "texts", "near_copies_across_splits", "warning")
def in_capitals(small):
    small.data["val"][50][0] = small.data["train"][60][0].upper().replace(" ?", "?! ")
    return {("val", 50)}


@planted(real.questions, "texts", "near_copies_within_split", "warning")
def another_word(small):
    """One of the first words is another in copies of long questions."""
    rows = small.data["train"]
    long = [i for i in range(60, 160) if len({*rows[i][0].lower().split()} - {"?", ",", "."}) >= 14][:2]
    for i, place in zip(long, (50, 51), strict=True):
        words = rows[i][0].split()
        rows[place][0] = " ".join([words[0], "quickly", *words[2:]])
    return {("train", i) for i in long}


@planted(real.questions, "texts", "left_out", "severe")
def a_field_too_many(small):
    small.data["train"] += [["which", "of", "DESC"], ["what", "DESC", ""]]
    return {"train.tsv:162", "train.tsv:163"}


@planted(real.patients, "columns", "constant_column", "warning")
def one_value(small):
    for row in small.data["rows"]:
        row["sex"] = "1"
    return {"sex"}


@planted(real.patients, "columns", "missing_values", "warning")
def gaps(small):
    for i, row in enumerate(small.data["rows"]):
        row["thalach"] = row["thalach"] if i % 3 == 0 else ""
    return {("train", i) for i in range(303) if i % 3}


@planted(real.patients, "columns", "shortcut", "severe")
def the_treatment(small):
    """What is known once the disease is."""
    for i, row in enumerate(small.data["rows"]):
        row["treated"] = float(row["disease"]) + (i % 7) / 20
    small.config.data.numbers = (*small.config.data.numbers, "treated")
    return set()


@planted(real.heartbeats, "copies", "copies_across_splits", "severe")
def a_beat_in_test_too(small):
    small.data["test_series"][[5, 6]] = small.data["train_series"][[20, 21]]
    return {("test", 5), ("test", 6)}


@planted(real.heartbeats, "copies", "near_copies_across_splits", "warning")
def a_beat_with_noise(small):
    noise = 0.01 * np.random.default_rng(0).normal(size=(96, 1)).astype(np.float32)
    small.data["test_series"][9] = small.data["train_series"][30] + noise
    return {("test", 9)}


@planted(real.heartbeats, "copies", "near_copies_within_split", "warning")
def the_same_beat_again(small):
    small.data["test_series"][41] = small.data["test_series"][40] * np.float32(1.01)
    return {("test", 41)}


@planted(real.patients, "twins", "near_copies_within_split", "warning")
def a_patient_a_week_later(small):
    for i in (10, 20, 30, 40, 50, 60):
        small.data["rows"][i + 1] = {**small.data["rows"][i], "chol": float(small.data["rows"][i]["chol"]) + 1}
    return set()

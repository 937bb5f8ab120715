"""Faults of digits and photos, of their plans and of the run they start from."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

import jaxfer
from tests.doctor import real
from tests.doctor.plants import planting

PLANTS, planted = planting()


@planted(real.digits, "copies", "copies_across_splits", "severe")
def in_test_too(small):
    small.data["test_image"][3] = small.data["train_image"][6]
    return {("test", 3)}


@planted(real.digits, "copies", "copies_within_split", "warning")
def twice_in_train(small):
    images, labels = small.data["train_image"], small.data["train_label"]
    copies = [i for i in range(20, 160) if labels[i] == labels[7]][:2]
    images[copies] = images[7]
    return {("train", i) for i in copies}


@planted(real.digits, "copies", "copies_with_other_labels", "severe")
def twice_with_two_labels(small):
    images, labels = small.data["train_image"], small.data["train_label"]
    other = next(i for i in range(20, 160) if labels[i] != labels[8])
    images[other] = images[8]
    return {("train", 8)}


def fainter(image):
    """Almost the same for the eye, and another one for the model."""
    return (image * 0.9).astype(np.uint8)


@planted(real.digits, "copies", "near_copies_across_splits", "warning")
def fainter_in_val(small):
    small.data["val_image"][2] = fainter(small.data["train_image"][11])
    return {("val", 2)}


@planted(real.digits, "copies", "near_copies_within_split", "warning")
def fainter_in_train(small):
    small.data["train_image"][[151, 152]] = fainter(small.data["train_image"][[12, 13]])
    return {("train", 151), ("train", 152)}


@planted(real.digits, "copies", "near_copies_within_split", "warning")
def fainter_in_test(small):
    small.data["test_image"][40] = fainter(small.data["test_image"][41])
    return {("test", 41)}


@planted(real.digits, "labels", "label_issues", "warning")
def other_labels(small):
    labels = small.data["train_label"]
    labels[50:62] = (labels[50:62] + 1) % 4
    return {("train", i) for i in range(50, 62)}


@planted(real.digits, "labels", "label_issues", "warning")
def other_labels_of_val(small):
    labels = small.data["val_label"]
    labels[50:58] = (labels[50:58] + 1) % 4
    return {("val", i) for i in range(50, 58)}


STRIPES = np.array([255, 0, 0, 255] * 4, np.uint8)


@planted(real.digits, "labels", "outliers", "warning")
def stripes(small):
    small.data["train_image"][:3] = STRIPES[:, None]
    return {("train", i) for i in range(3)}


@planted(real.digits, "labels", "outliers", "note")
def stripes_in_val(small):
    small.data["val_image"][:2] = STRIPES[None, :]
    return {("val", 0), ("val", 1)}


@planted(real.digits, "drift", "drift", "warning")
def rotated(small):
    small.data["val_image"][:] = np.rot90(small.data["val_image"], axes=(1, 2))
    return set()


def of_class(small, split, c, most):
    """Drops all but `most` examples of a class."""
    labels = small.data[f"{split}_label"]
    kept = np.setdiff1d(np.arange(len(labels)), np.flatnonzero(labels == c)[most:])
    for name in (f"{split}_image", f"{split}_label"):
        small.data[name] = small.data[name][kept]


@planted(real.digits, "classes", "few_examples", "warning")
def three_of_a_class(small):
    of_class(small, "train", 3, 3)
    return {"3"}


@planted(real.digits, "classes", "imbalance", "warning")
def a_large_class(small):
    return {"3"}  # the same three: the largest class has ten times as many


@planted(real.digits, "classes", "absent_class", "warning")
def none_in_val(small):
    of_class(small, "val", 2, 0)
    return {"2"}


@planted(real.digits, "gone", "features_unread", "note")
def a_source_that_is_gone(small):
    small.config.update(init="sibling:none", head="reset")
    return set()


@planted(real.digits, "classes", "small_val", "note")
def a_small_val(small):
    for name in ("val_image", "val_label"):
        small.data[name] = small.data[name][:40]
    return {"3"}


@planted(real.digits, "classes", "order", "note")
def sorted_by_class(small):
    order = np.argsort(small.data["train_label"], kind="stable")
    for name in ("train_image", "train_label"):
        small.data[name] = small.data[name][order]
    return {("train", 0)}


@planted(real.digits, "few", "labels_unchecked", "note")
def four_labels_a_class(small):
    small.config.data.labels_per_class = 4
    return {"0", "1", "2", "3"}


@planted(real.digits, "plan", "rate", "severe")
def a_high_rate(small):
    small.config.update(method="full", lr=0.5)
    return {"config.lr"}


@planted(real.digits, "groups", "rate", "severe")
def high_rates_of_groups(small):
    small.config.update(method="full")
    small.config.rates = {"backbone": 5.0, "head": 5.0}
    return {"config.rates.backbone", "config.rates.head"}


@planted(real.digits, "plan", "only_head", "warning")
def all_but_the_head_frozen(small):
    small.config.freeze = ("(?!head).*",)
    return set()


@planted(real.digits, "frozen", "nothing_trained", "severe")
def all_frozen(small):
    small.config.freeze = (".*",)
    return {"config"}


@planted(real.digits, "plan", "warmup", "warning")
def a_long_warmup(small):
    small.config.update(steps=4, warmup=3)
    return {"config.warmup"}


@planted(real.digits, "plan", "part_of_an_epoch", "warning")
def few_steps(small):
    return {"config.steps"}  # the same four


@planted(real.digits, "plan", "sampled", "note")
def not_all_looked_at(small):
    small.examples = 50
    return {"train", "val", "test"}


def photo(small, i, name="cat"):
    return sorted((small.data["train"] / name).iterdir())[i]


def changed(small, i, change, name="cat"):
    """Changes a photo, kept without loss under its name; returns the name that findings have."""
    file = photo(small, i, name)
    with Image.open(file) as image:
        change(image.convert("RGB")).save(file, format="PNG")
    return f"train/{name}/{file.name}"


def turned(small, i, name="cat"):
    """Turns a bit in the middle of a photo; returns the name that findings have."""
    told, file = changed(small, i, lambda image: image, name), photo(small, i, name)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(bytes(content))
    return told


def blended(colour, part):
    return lambda image: Image.blend(image, Image.new("RGB", image.size, colour), part)


@planted(real.photos, "looks", "blank", "severe")
def one_colour(small):
    return {changed(small, 0, blended("gray", 1.0))}


@planted(real.photos, "looks", "dark", "warning")
def in_the_dark(small):
    return {changed(small, 1, blended("black", 0.85))}


@planted(real.photos, "looks", "bright", "warning")
def overexposed(small):
    return {changed(small, 2, blended("white", 0.92))}


@planted(real.photos, "looks", "blurry", "warning")
def out_of_focus(small):
    return {changed(small, 3, lambda image: image.filter(ImageFilter.GaussianBlur(30)))}


@planted(real.photos, "looks", "aspect", "warning")
def a_strip(small):
    return {changed(small, 4, lambda image: image.crop((0, 0, image.width, image.width // 5)))}


@planted(real.photos, "looks", "small", "note")
def a_thumbnail(small):
    return {changed(small, 5, lambda image: image.resize((12, 12)))}


@planted(real.photos, "looks", "left_out", "severe")
def cut_short(small):
    for i in (6, 7):
        photo(small, i).write_bytes(photo(small, i).read_bytes()[:900])
    return {f"train/cat/{photo(small, i).name}" for i in (6, 7)}


@planted(real.photos, "looks", "undecodable", "severe")
def a_bit_in_the_middle(small):
    return {turned(small, 8)}


@planted(real.photos, "no dogs", "absent_class", "severe")
def no_dog_can_be_read(small):
    for i in range(30):
        turned(small, i, "dog")
    return {"dog"}


@planted(real.photos, "dogs at night", "shortcut", "severe")
def dark_dogs(small):
    for i in range(30):
        file = photo(small, i, "dog")
        with Image.open(file) as image:
            blended("black", 0.8)(image.convert("RGB")).save(file)
    return set()


@planted(real.digits, "source", "worse_than_inputs", "warning")
def a_source_that_learned_nothing(small):
    """One step on digits in white, after which the features are still those of random weights."""
    (small.folder / "white").mkdir()
    made = real.digits(small.folder / "white")
    for split in ("train", "val", "test"):
        made.data[f"{split}_image"] = 255 - made.data[f"{split}_image"]
    made.write()
    made.config.steps = 1
    jaxfer.run(made.config, small.folder / "white/run", quiet=True)
    small.config.update(init=f"run:{small.folder / 'white/run'}", head="reset", method="probe")
    return set()


@planted(real.digits, "source", "pilot", "note")
def a_probe_of_it(small):
    return {"0", "1", "2", "3"}


@planted(real.digits, "source", "domain_gap", "note")
def white_digits(small):
    return set()  # those of the source


@planted(real.digits, "source", "preprocessing", "warning")
def another_mean(small):
    small.config.model.mean = (0.1,)
    small.config.differs = ("mean",)
    return {"mean"}


@planted(real.digits, "source", "plan", "note")
def frozen_twice(small):
    small.config.freeze = ("(?!head).*",)  # by the method too
    return set()

"""Folders of runs with the files that say how a run went, and nothing else."""

from __future__ import annotations

import json

CONFIG = {
    "seed": 0,
    "init": "scratch",
    "stages": [],
    "rooms": [],
    "method": "full",
    "options": {},
    "steps": 60,
    "lr": 0.01,
    "freeze": [],
    "model": {"name": "resnet", "width": 8},
    "task": {"name": "classification", "label_smoothing": 0.0},
    "data": {"source": "digits"},
}
LINES = (
    {"step": 10, "stage": "train", "split": "train", "loss": 2.0, "grad_norm": 3.0, "seconds": 1.5},
    {"step": 20, "stage": "train", "split": "train", "loss": 1.0, "grad_norm": 2.0, "seconds": 2.0},
    {"step": 20, "stage": "train", "split": "val", "accuracy": 0.75, "loss": 1.25, "seconds": 2.5},
)


def result(**metrics):
    """A result.json of 60 steps with these metrics of val."""
    return {
        "metrics": {"val": metrics},
        "cost": {"seconds": 12.5, "compile_seconds": 4.0, "params_trainable": 1234, "params_total": 5678},
        "seed": 0,
        "steps": 60,
        "checkpoint_step": 60,
        "classes": ["a", "b"],
        "examples": {"train": 8, "val": 4},
        "lineage": {"init": "scratch", "data_sha256": "0", "sha256": "1"},
        "versions": {},
    }


def write(folder, *, lines=LINES, ended=None, changes=None, **marks):
    """A run's folder: config.json with some fields changed, metrics.jsonl, result.json, and other files' texts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | (changes or {})))
    if lines:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if ended is not None:
        (folder / "result.json").write_text(json.dumps(ended))
    for name, text in marks.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder

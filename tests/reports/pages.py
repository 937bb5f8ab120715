"""Small things to report on, of every kind: pictures and a run on them, a sweep of copies of it, JSON of the others."""

from __future__ import annotations

import json
import shutil

import numpy as np
from PIL import Image

import jaxfer
from tests.experiments import tiny_config

RATES, SEEDS = (0.1, 0.01, 0.001), (0, 1, 2)


def run(folder, *classes):
    """A run on random pictures, eight by eight pixels, sixteen of each class; its folder."""
    for name in classes:
        for number in range(16):
            path = folder / "photos" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    config = tiny_config("resnet_basic", steps=2, eval_every=1, init="scratch")
    config.data = dict(source="folder", path=str(folder / "photos"), val_fraction=0.5)
    jaxfer.run(config, folder / "run")
    return folder / "run"


def sweep(folder, of):
    """A sweep of two fields and three seeds: copies of one run, whose score is 0.9 - lr - seed / 100."""
    index = []
    for lr in RATES:
        for seed in SEEDS:
            place = folder / "cells" / f"c{len(index)}"
            shutil.copytree(of, place, ignore=shutil.ignore_patterns("report.html"))
            for name, change in (("config", {"lr": lr, "seed": seed, "warmup": int(lr < 0.1)}), ("result", {})):
                content = json.loads((place / f"{name}.json").read_text()) | change
                if name == "result":
                    content["seed"], content["metrics"]["val"]["accuracy"] = seed, 0.9 - lr - seed / 100
                (place / f"{name}.json").write_text(json.dumps(content))
            entry = {"name": f"lr={lr} seed {seed}", "group": f"lr={lr}", "folder": f"cells/c{len(index)}"}
            index.append({**entry, "overrides": {"lr": lr}, "status": "ok"})
    (folder / "cells.json").write_text(json.dumps(index))
    command = dict(config="a b.py", overrides={"data.size": [8, 8]}, options={"sampler": "random", "trials": 3})
    (folder / "command.json").write_text(json.dumps(command))
    return folder


def diagnosis(path, findings=3, **more):
    """The JSON of `jaxfer doctor --json`."""
    example = dict(split="train", row=3, name="a.png", says="a copy of row 4")
    kinds = ("severe", "warning", "note")
    found = [
        dict(severity=kinds[i % 3], kind="copies", message=f"Finding {i}.", fix="look at it", value=1.5, threshold=1.0)
        | dict(examples=[example])
        for i in range(findings)
    ]
    path.write_text(json.dumps(dict(findings=found, examples={"train": 30}, seconds=1.0, counts={}) | more))
    return path


def ranking(path, inits=("a", "b", "c"), **more):
    """The JSON of `jaxfer rank --out`: of each candidate a lower score than of the one before, and a run from it."""
    candidates = []
    for i, init in enumerate(inits):
        scores = {name: dict(value=0.5 - 0.1 * i, seconds=0.25, why="") for name in ("logme", "knn")}
        own = dict(init=init, model="m", seconds=1.0, computed=3, scores=scores, sha256="a" * 64, layers={})
        reached = dict(metric="accuracy", value=0.8 - 0.1 * i, maximize=True, seeds=2, settings=3)
        reached["folders"] = [f"runs/s/cells/{i}{seed}" for seed in (0, 1)]
        candidates.append(own | dict(heuristics={"depth": 3 + i}, reached=reached, notes=["an assumption"]))
        scores["leep"] = scores["nce"] = dict(value=None, seconds=0.0, why=f"head {i} is random")
        units = dict(stem=0.1 + 0.1 * i, block_0=0.2, head=None)
        own["layers"] |= {u: dict(value=v, seconds=0.0, why="" if v else "no vector") for u, v in units.items()}
    skill = dict(tau=1.0, low=0.2, high=1.0, chance=0.1, candidates=len(inits))
    content = dict(config="c", by="logme", examples=3, classes=2, candidates=candidates, versions={"jax": "0.1"})
    path.write_text(json.dumps(content | dict(skill={"logme": skill, "knn": skill}) | more))
    return path

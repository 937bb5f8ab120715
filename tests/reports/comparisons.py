"""A comparison's folder without its runs, as `jaxfer compare` writes it; names of arms may be anything."""

from __future__ import annotations

import json


def write(folder, arm="full", baseline="majority class"):
    folder.mkdir(parents=True, exist_ok=True)
    verdict = {
        "outcome": "helps",
        "effect": 0.2,
        "interval95": [0.1, 0.3],
        "interval": "paired t over 2 seeds",
        "sentence": f"{arm} helps: test accuracy +0.200 over scratch, 95 % interval [+0.100, +0.300] (paired t).",
        "p": 0.01,
        "p_holm": 0.01,
    }
    common = {"labels": 5, "setting": {"lr": 0.01}, "seconds": 2.0, "params_trainable": 100}
    scratch = {**common, "arm": "scratch", "val": 0.5, "test": [0.5, 0.6], "default": [0.4, 0.5], "verdict": None}
    other = {**common, "arm": arm, "val": 0.8, "test": [0.7, 0.8], "default": [0.7, 0.8], "verdict": verdict}
    simple = {"labels": 5, "name": baseline, "setting": 0, "val": [0.1], "test": [0.1, 0.1]}
    contents = {
        "comparison": {"metric": "accuracy", "findings": [scratch, other], "baselines": [simple]},
        "selection": {"rule": "best", "selected": [{"labels": 5, "arm": a, "trial": 0} for a in ("scratch", arm)]},
        "protocol": {"arms": {"scratch": [{}], arm: [{}]}, "seeds": [0, 1]},
        "cells": [],
    }
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder

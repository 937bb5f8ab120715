"""A comparison's folder without its runs, as `jaxfer compare` writes it; names of arms may be anything."""

from __future__ import annotations

import json


def write(folder, arm="full", baseline="majority class", counts=(5,), of_scratch=None, p_holm=0.01, **more):
    """At each label count scratch and one arm; `more` are fields of the arm's findings, `of_scratch` of scratch's."""
    folder.mkdir(parents=True, exist_ok=True)
    verdict = {
        "outcome": "helps",
        "effect": 0.2,
        "interval95": [0.1, 0.3],
        "interval": "paired t over 2 seeds",
        "sentence": f"{arm} helps: test accuracy +0.200 over scratch, 95 % interval [+0.100, +0.300] (paired t).",
        "p": 0.01,
        "p_holm": p_holm,
    }
    findings, chosen, simple = [], [], []
    for labels in counts:
        common = {"labels": labels, "setting": {"lr": 0.01}, "seconds": 2.0, "params_trainable": 100}
        scratch = {**common, "arm": "scratch", "val": 0.5, "test": [0.5, 0.6], "default": [0.4, 0.5], "verdict": None}
        other = {**common, "arm": arm, "val": 0.8, "test": [0.7, 0.8], "default": [0.7, 0.8], "verdict": verdict}
        findings += [scratch | (of_scratch or {}), other | more]
        chosen += [{"labels": labels, "arm": name, "trial": 0} for name in ("scratch", arm)]
        simple.append({"labels": labels, "name": baseline, "setting": 0, "val": [0.1], "test": [0.1, 0.1]})
    contents = {
        "comparison": {"metric": "accuracy", "findings": findings, "baselines": simple},
        "selection": {"rule": "best", "selected": chosen},
        "protocol": {"arms": {"scratch": [{}], arm: [{}]}, "seeds": [0, 1]},
        "opened": {"time": "2026-11-30T13:05:00Z"},
        "cells": [],
    }
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder

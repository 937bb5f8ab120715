"""jaxfer: transfer learning experiments in JAX. Config in, result out:

import jaxfer
config = jaxfer.load("configs/digits.py:lora", {"data.labels_per_class": 20})
for stage in jaxfer.show(config): print(stage)
print(jaxfer.find_lr(config, "runs/digits/mine").suggestions())
result = jaxfer.run(config, "runs/digits/mine")  # beside runs/digits/pretrain
jaxfer.evaluate("runs/digits/mine", split="test")
jaxfer.export("runs/digits/mine", format="hf")
jaxfer.predict("runs/digits/mine", ["a.png", "b.png"])
jaxfer.score("runs/digits/mine", "labelled.csv").metrics
jaxfer.features("runs/digits/mine", unit="block_1", pool="mean").write("mine.npz")
jaxfer.fewshot("runs/digits/mine", way=5, shot=1)["prototypes"]
print(jaxfer.doctor("configs/digits.py").text())
jaxfer.rank("mine.py", ["google/vit-base-patch16-224", "microsoft/resnet-50"]).candidates
jaxfer.merge(["runs/digits/a", "runs/digits/b"], rule="greedy", workdir="runs/digits/soup")
jaxfer.ensemble(["runs/digits/a", "runs/digits/b"], split="test")["ensemble"]
jaxfer.adapters({"a": "runs/digits/lora", "b": "runs/digits/ia3"}).switch("b")
jaxfer.compare("configs/digits.py", "runs/digits-compared")
jaxfer.report("runs/digits-compared").path
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_API = {
    "load": "jaxfer.config",
    "run": "jaxfer.training.loop",
    "show": "jaxfer.training.summary",
    "find_lr": "jaxfer.training.find_lr",
    "evaluate": "jaxfer.training.evaluation",
    "robustness": "jaxfer.training.robustness",
    "calibrate": "jaxfer.training.calibrating",
    "features": "jaxfer.training.features",
    "fewshot": "jaxfer.evals.fewshot",
    "rank": "jaxfer.evals.ranking",
    "doctor": "jaxfer.diagnosis",
    "export": "jaxfer.exports.hf",
    "predict": "jaxfer.exports.predict",
    "score": "jaxfer.exports.scoring",
    "load_export": "jaxfer.exports.predict",
    "merge": "jaxfer.training.merge",
    "ensemble": "jaxfer.training.ensemble",
    "chain": "jaxfer.evals.chain",
    "adapters": "jaxfer.exports.adapters",
    "select": "jaxfer.evals.selecting",
    "sweep": "jaxfer.sweeps",
    "compare": "jaxfer.comparison",
    "report": "jaxfer.reports",
    "plan": "jaxfer.forecast",
}
__all__ = list(_API)


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `jaxfer --help` and a config file's error do not wait for JAX.
    if name not in _API:
        raise AttributeError(f"module 'jaxfer' has no attribute {name!r}")
    return getattr(import_module(_API[name]), name)


if os.environ.get("JAXFER_ROOMS"):  # a process that another one started: it unpickles what a user's files define
    import_module("jaxfer.registry").use(os.environ["JAXFER_ROOMS"].split(os.pathsep))

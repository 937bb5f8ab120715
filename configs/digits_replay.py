"""One task after the other: digits 0 to 4, then 5 to 9 under a head of their own, with and without replay.

Each run ends with both accuracies: `accuracy` of the new task, and `memory/accuracy` of the earlier one under the head
that it was learned with. The source's own val accuracy less that is what was forgotten.

jaxfer sweep configs/digits_replay.py --processes 2
jaxfer run configs/digits_replay.py:first && jaxfer run configs/digits_replay.py:er
"""

import jaxfer.config
from jaxfer.sweeps import Cell

FIRST, SECOND = tuple("01234"), tuple("56789")
METHODS = ("full", "er", "ewc")


def get_config(arg=""):
    """arg: `first` (the earlier task) or one of METHODS (default `full`: no replay), and `tiny` for two steps."""
    words = jaxfer.config.words(arg, ("first", "tiny", *METHODS))
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(8, 8, 1))
    config.data = dict(source="digits", classes=FIRST if "first" in words else SECOND, val_per_class=20)
    config.update(batch_size=32, steps=200, lr=3e-3, warmup=20, weight_decay=1e-2)
    if "first" not in words:
        # What is kept of the earlier task: 10 examples a class. Without replay (weight 0) it is only evaluated.
        memory = dict(source="digits", classes=FIRST, labels_per_class=10, val_per_class=20, task="classification")
        config.stream.memory = dict(**memory, batch_size=32, weight=1.0 if "er" in words else 0.0)
        config.update(init="sibling:first", head="reset", method="er" if "er" in words else "full")
    if "ewc" in words:  # the Fisher information is of these examples, which are not trained on
        config.stream = dict(former=dict(**memory, weight=0.0))
        config.method = "ewc"
    if "tiny" in words:
        config.update(init="scratch", head="auto", batch_size=4, steps=2, warmup=1)
        config.model.update(stage_sizes=(1,), width=4)
    return config


def sweep():
    """The earlier task, then the later one after it without and with replay, under five seeds."""
    for seed in range(5):
        yield Cell(name=f"first{seed}", arg="first", overrides={"seed": seed})
        for method in METHODS:
            overrides = {"seed": seed, "init": f"sibling:first{seed}", "test": True}
            yield Cell(arg=method, overrides=overrides, group=method)

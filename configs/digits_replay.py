"""One task after the other: digits 0 to 4, then 5 to 9 under a head of their own; what is forgotten, by method.

Each run ends with both accuracies: `accuracy` of the new task, and `memory/accuracy` of the earlier one under the head
that it was learned with (`former/accuracy` under ewc). The source's own accuracy less that is what was forgotten.

jaxfer sweep configs/digits_replay.py --processes 2
jaxfer run configs/digits_replay.py:first && jaxfer run configs/digits_replay.py:er

Test accuracy by the first command, 5 seeds, of the new and of the earlier task, which was at 0.99 to 1.00 on val: full
0.978 ± 0.006 and 0.391 ± 0.055, er 0.974 ± 0.006 and 0.894 ± 0.036, ewc 0.962 ± 0.004 and 0.967 ± 0.013. Paired, er
keeps 0.502 ± 0.073 more of the earlier task than full, ewc 0.576 ± 0.061. ewc's strength was chosen on val of seed 0.
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
        config.update(method="ewc", options=dict(strength=1e6))
    if "tiny" in words:
        config.update(init="scratch", head="auto", batch_size=4, steps=2, warmup=1)
        config.model.update(stage_sizes=(1,), width=4)
    return config


def sweep():
    """The earlier task, then the later one after it by each method, under five seeds."""
    for seed in range(5):
        yield Cell(name=f"first{seed}", arg="first", overrides={"seed": seed})
        for method in METHODS:
            overrides = {"seed": seed, "init": f"sibling:first{seed}", "test": True}
            yield Cell(arg=method, overrides=overrides, group=method)

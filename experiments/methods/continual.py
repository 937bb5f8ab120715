"""Five tasks one after the other: digits 0 and 1, then 2 and 3, and so on, with a head each; what is left, by method.

    jaxfer sweep experiments/methods/continual.py --processes 2 --workdir runs/methods/continual
    python experiments/methods/continual_table.py runs/methods/continual

A small ResNet from scratch, 100 steps of 32 examples a task. A run starts from the one before, and is told which task
an image is of. `er`, `der` and `agem` have 10 examples a class of the task before, and none of those before that; under
`full`, `si` and `lwf` these are only evaluated, and `ewc` measures its information on them. All have the defaults of
their methods but `ewc`, whose strength is that of configs/digits_replay.py, and `si`, whose c was the better one of 30
and 1000 on val of seed 0 after two tasks. Each method's first task is trained by `full`, that of `si` by `si`, which
has to see how its parameters move. `progressive` begins every task from the first one's network, which stays in it.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

TASKS = ("01", "23", "45", "67", "89")
SEEDS = 5
REPLAY = ("er", "der", "agem")
METHODS = ("full", "ewc", "si", "lwf", *REPLAY, "progressive")
OPTIONS = {"ewc": {"strength": 1e6, "online": 1.0}, "si": {"c": 1e3}}


def get_config(arg=""):
    """arg: a task (`01`, the first, if none), one of METHODS (default `full`), and `tiny` for two steps."""
    words = jaxfer.config.words(arg, (*TASKS, *METHODS, "tiny"))
    (task,) = words & {*TASKS} or {TASKS[0]}
    (method,) = words & {*METHODS} or {"full"}
    place = TASKS.index(task)
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(8, 8, 1))
    config.data = dict(source="digits", classes=tuple(task), val_per_class=20)
    config.update(batch_size=32, steps=100, warmup=10, lr=3e-3, weight_decay=1e-2, method=method)
    if place and method == "progressive":
        config.update(init="sibling:first", head="reset")
    elif place:
        before = dict(source="digits", classes=tuple(TASKS[place - 1]), labels_per_class=10, val_per_class=20)
        before.update(task="classification", weight=1.0 if method in REPLAY else 0.0)
        config.stream = {"former" if method == "ewc" else "memory": before}
        config.update(init="sibling:first", head="reset")
    config.options = dict(OPTIONS.get(method, {}))
    if "tiny" in words:
        config.update(batch_size=4, steps=2, warmup=1)
        config.model.update(stage_sizes=(1,), width=4)
    return config


def sweep(arg):
    """A chain of runs for each method and seed; `tiny` for one seed of two steps."""
    tiny = [arg] if arg else []
    for seed in range(1 if tiny else SEEDS):
        for method in METHODS:
            before = ""
            for task in TASKS:
                trained_by = "full" if not before and method != "si" else method
                name = f"{trained_by}{seed}_{task}"
                last = task == TASKS[-1]
                overrides = {"seed": seed, "test": True, **({"init": f"sibling:{before}"} if before else {})}
                if before or method in ("full", "si"):  # the others share the first run of `full`
                    words = ",".join([trained_by, task, *tiny])
                    yield Cell(name=name, arg=words, overrides=overrides, group=method if last else "")
                before = name if method != "progressive" else before or name

"""One task after the other, digits or kinds of product reviews: what is left, by method.

    jaxfer sweep experiments/methods/continual.py --processes 2 --workdir runs/methods/continual
    python experiments/methods/features.py reviews
    jaxfer sweep experiments/methods/continual.py:reviews --processes 2 --workdir runs/methods/continual_reviews
    python experiments/methods/continual_table.py runs/methods/continual runs/methods/continual_reviews

`digits` (the default): 0 and 1, then 2 and 3, and so on, five tasks with a head each; a small ResNet from scratch, 100
steps of 32 examples a task. `reviews`: liked or not, of books, then DVDs, electronics and kitchenware, one head for all
four; a network of rows on what MiniLM says of them, 60 steps of 32 a task.

A run starts from the one before, and is told which task an example is of. `er`, `der` and `agem` have 10 examples a
class of every task before, 32 in a step (30 of three tasks), shared by these tasks and weighed as the new ones are; in
the arms `last` they have those of the task before alone. Under `full`, `si` and `lwf` these are only evaluated, and
`ewc` measures its information on them, with that of the tasks before (`ewc, online`) or without. All have the defaults
of their methods, those of the time, but `ewc`, whose strength is that of configs/digits_replay.py for digits, and for
reviews the best of 1, 10, ..., 1e6 on val of seed 0 after two tasks, and `si`, whose c was the better one of 30 and
1000 on val of seed 0 after two tasks of digits. Each method's first task is trained by `full`, that of `si` by `si`,
which has to see how its parameters move. `progressive` begins every task from the first one's network, which stays in
it: two columns by choice. In runs that start from the one before, as in the paper, a task reads a column of every task
so far. Of `lwf` and `si` the defaults are others by now: here `lwf` trains all groups from the first step
(`warm_up=0`), and of `si` no task's sum is negative (`floor=task`).

`der, reservoir` keeps 60 examples of all that went by, as many as the other memories hold at the last of four tasks,
and trains the first task too. It has one head, so `reviews` alone.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

DIGITS, REVIEWS = ("01", "23", "45", "67", "89"), ("books", "dvd", "electronics", "kitchen")
SEEDS = 5
REPLAY = ("er", "der", "agem")
STRENGTH = {DIGITS: 1e6, REVIEWS: 1e2}  # of ewc
# {arm: its method and options}
METHODS = {
    "full": {},
    "ewc": {"method": "ewc"},
    "ewc, online": {"method": "ewc", "options": {"online": 1.0}},
    "si": {"method": "si", "options": {"c": 1e3, "floor": "task"}},
    "lwf": {"method": "lwf", "options": {"warm_up": 0.0}},
    **{name: {"method": name} for name in REPLAY},
    **{f"{name}, last": {"method": name} for name in REPLAY},
    "der, reservoir": {"method": "der", "options": {"reservoir": 60}},
    "progressive": {"method": "progressive"},
}
OWN = ("si", "der, reservoir")  # arms that train the first task too


def data(task):
    """The examples of a task."""
    if task in DIGITS:
        return dict(source="digits", classes=tuple(task), val_per_class=20)
    columns = tuple(f"f{i}" for i in range(384))
    path = f"runs/methods/features/reviews/{task}.csv"  # of features.py
    return dict(source="csv_rows", path=path, numbers=columns, test_fraction=0.4, val_per_class=20)


def get_config(arg=""):
    """arg: a task (`01` if none), and `tiny` for two steps; `reviews` is the first of that sequence."""
    words = jaxfer.config.words(arg, (*DIGITS, *REVIEWS, "reviews", "tiny"))
    (task,) = words & {*DIGITS, *REVIEWS} or {REVIEWS[0] if "reviews" in words else DIGITS[0]}
    config = jaxfer.config.base()
    config.data = data(task)
    if task in DIGITS:
        config.model = dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(8, 8, 1))
        config.update(batch_size=32, steps=100, warmup=10, lr=3e-3, weight_decay=1e-2)
    else:
        config.model = dict(name="row_mlp", dropout=0.2)
        config.update(batch_size=32, steps=60, warmup=6, lr=1e-3, weight_decay=1e-2)
    if "tiny" in words:
        config.update(batch_size=4, steps=2, warmup=1)
        config.model.update(dict(stage_sizes=(1,), width=4) if task in DIGITS else dict(width=4, mlp_width=6))
    return config


def later(arm, place, tasks):
    """The fields of a run that starts from that of the task before."""
    method = METHODS[arm].get("method")
    fields = {"head": "reset" if tasks == DIGITS else "keep"}
    if method == "progressive" or "reservoir" in METHODS[arm].get("options", {}):
        return fields
    kept = tasks[:place] if arm in REPLAY else tasks[place - 1 : place]
    names = [f"memory_{task}" for task in kept] if arm in REPLAY else ["former" if method == "ewc" else "memory"]
    for name, task in zip(names, kept, strict=True):
        examples = {**data(task), "labels_per_class": 10, "task": "classification"}
        examples["weight"] = 1.0 / len(kept) if method in REPLAY else 0.0
        if len(kept) > 1:
            examples["batch_size"] = 32 // len(kept)
        fields |= {f"stream.{name}.{field}": value for field, value in examples.items()}
    return {**fields, "options": {"memories": tuple(names)}} if arm in REPLAY else fields


def sweep(arg):
    """A chain of runs for each arm and seed; with `tiny` one seed of two steps."""
    words = jaxfer.config.words(arg, ("reviews", "tiny"))
    tasks, tiny = REVIEWS if "reviews" in words else DIGITS, [*words & {"tiny"}]
    for seed in range(1 if tiny else SEEDS):
        once = {"seed": seed, "test": True}
        for task in tasks if tasks == REVIEWS else ():
            fields = {**once, "steps": 1, "warmup": 0, "lr": 0.0, "method": "probe"}
            yield Cell(name=f"untrained{seed}_{task}", arg=",".join([task, *tiny]), overrides=fields)
        for arm in METHODS:
            if arm == "der, reservoir" and tasks == DIGITS:
                continue
            before = ""
            for place, task in enumerate(tasks):
                trained_by = "full" if not place and arm not in OWN else arm
                name = f"{trained_by}{seed}_{task}"
                overrides = {**once, **METHODS[trained_by]}
                if overrides.get("method") == "ewc":
                    overrides["options"] = {"strength": STRENGTH[tasks], **overrides.get("options", {})}
                if place:
                    overrides |= later(arm, place, tasks)
                    overrides |= {"init": f"sibling:{before}"}
                if place or arm in ("full", *OWN):  # the others share the first run of `full`
                    group = arm if task == tasks[-1] else ""
                    yield Cell(name=name, arg=",".join([task, *tiny]), overrides=overrides, group=group)
                before = name if arm != "progressive" else before or name

"""Four tasks at once, whose losses are added, weighed or kept out of each other's way; beside a network for each alone.

    python experiments/methods/features.py reviews
    jaxfer sweep experiments/methods/multitask.py:reviews --processes 2 --workdir runs/methods/multitask/reviews
    jaxfer sweep experiments/methods/multitask.py:heart --processes 2 --workdir runs/methods/multitask/heart
    python experiments/methods/multitask_table.py runs/methods/multitask/reviews runs/methods/multitask/heart

`reviews`: whether a review is a good one, of books, DVDs, electronics and kitchenware; a network of rows on what MiniLM
says of them. `heart`: whether a patient is ill, in four clinics; a network of rows. Each task has a head of its own and
a batch of its own in every step: 5, 25 or all labels a class of reviews, all of the patients. A network alone
sees as many examples of its task, in as many steps. 200 steps of 32, the last parameters are the result,
each method has its defaults, and the test split is read once, at a run's end.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

ROWS = dict(source="csv_rows", test_fraction=0.4)
FEATURES = dict(numbers=tuple(f"f{i}" for i in range(384)), **ROWS)
CLINIC = dict(
    numbers=("age", "trestbps", "chol", "thalach", "oldpeak", "ca"),
    categories=("sex", "cp", "fbs", "restecg", "exang", "slope", "thal"),
    label="disease",
    zero_is_missing=("chol", "trestbps"),
    **ROWS,
)
TASKS = {
    "reviews": {
        name: dict(path=f"runs/methods/features/reviews/{name}.csv", **FEATURES)
        for name in ("books", "dvd", "electronics", "kitchen")
    },
    "heart": {
        name: dict(path=f"tabular/heart/{name}.csv", **CLINIC)
        for name in ("cleveland", "hungarian", "switzerland", "va")
    },
}
LABELS = {"reviews": (5, 25, 0), "heart": (0,)}
METHODS = ("full", "uncertainty", "gradnorm", "pcgrad")
SEEDS = 5


def get_config(arg=""):
    """arg: a kind (`heart` if none) and a task alone; without one, the first with the others as streams."""
    tasks = {task: kind for kind in TASKS for task in TASKS[kind]}
    words = jaxfer.config.words(arg, (*TASKS, *tasks))
    (kind,) = words & {*TASKS} or {"heart"}
    first, *others = words & {*tasks} or TASKS[kind]
    config = jaxfer.config.base()
    config.model = dict(name="row_mlp", dropout=0.2)
    config.data = dict(TASKS[kind][first])
    config.update(batch_size=32, steps=200, warmup=20, lr=1e-3, weight_decay=1e-2, eval_every=200)
    for name in others:
        config.stream[name] = dict(TASKS[kind][name], task="classification", batch_size=32)
    return config


def sweep(arg):
    """arg: a kind."""
    (kind,) = jaxfer.config.words(arg, TASKS) or {"heart"}
    _, *others = TASKS[kind]
    for labels in LABELS[kind]:
        few = {"data.labels_per_class": labels} if labels else {}
        shown = f", {labels} labels a class" if labels else ""
        for seed in range(SEEDS):
            once = {"seed": seed, "test": True, **few}
            for task in TASKS[kind]:
                yield Cell(arg=f"{kind},{task}", overrides=once, group=f"alone: {task}{shown}")
            streams = {
                f"stream.{name}.{field.partition('.')[2]}": value for name in others for field, value in few.items()
            }
            for method in METHODS:
                yield Cell(arg=kind, overrides={**once, **streams, "method": method}, group=f"{method}{shown}")

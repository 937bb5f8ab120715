"""Is transfer 10 to 100 times cheaper than training from scratch, and 15 to 20 % better with few labels?

    jaxfer sweep experiments/claims/claims.py:usps --workdir runs/claims/usps      # likewise each of SETS
    python experiments/claims/claims_table.py runs/claims/*

A probe and fine-tuning have `steps` steps, scratch as many and 3, 10 and 30 times as many, each time with a schedule of
its own and with both of two rates. Every arm is run with few labels of each class and with all of them, under five
seeds: a seed fixes labels, validation examples, batches and fresh parameters. Val chooses between probe and fine-tuning
and between scratch's rates; the last parameters are the result, and the test split is read at a run's end.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

SEEDS, MULTIPLES, SCRATCH_RATES = 5, (1, 3, 10, 30), (1e-3, 5e-3)
TRANSFERS = {"probe": {"method": "probe", "lr": 1e-2}, "full": {"method": "full", "lr": 1e-3}}
AMOUNTS = ("few", "all")
CLINIC = dict(
    source="csv_rows",
    numbers=("age", "trestbps", "chol", "thalach", "oldpeak", "ca"),
    categories=("sex", "cp", "fbs", "restecg", "exang", "slope", "thal"),
    label="disease",
    zero_is_missing=("chol", "trestbps"),
    test_fraction=0.4,
)
SMALL = dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(16, 16, 1))
CIFAR = "weights/cifar10_resnet20"
RESNET20 = dict(name="resnet", stage_sizes=(3, 3, 3), width=16, stem="cifar", shortcut="padding", image=(32, 32, 3))


def digits(name):
    return dict(source="npz", path=f"vision/{name}.npz")


def bone(name):
    return dict(source="npz", path=f"timeseries/{name}PhalanxOutlineCorrect.npz", val_per_class=50)


def clinic(name, val):
    return dict(path=f"tabular/heart/{name}.csv", val_per_class=val, **CLINIC)


# {set: its data, model and few labels of each class; `before`: data that a source run reads, or `init`: a checkpoint}
SETS = {
    "usps": dict(data=digits("usps"), before=digits("mnist"), model=SMALL, few=10),
    "mnist": dict(data=digits("mnist"), before=digits("usps"), model=SMALL, few=10),
    "fashion_mnist": dict(data=digits("fashion_mnist"), init=CIFAR, model=RESNET20, few=10, multiples=(1, 3, 10)),
    "pneumonia_mnist": dict(data=digits("pneumonia_mnist"), init=CIFAR, model=RESNET20, few=10, multiples=(1, 3, 10)),
    **{
        f"phalanx_{name.lower()}": dict(
            data=bone(name),
            before=bone(source),
            model=dict(name="series_cnn", widths=(32, 64, 64), length=80),
            few=20,
        )
        for name, source in (("Middle", "Distal"), ("Distal", "Middle"), ("Proximal", "Distal"))
    },
    **{
        f"heart_{name}": dict(
            data=clinic(name, val),
            before=clinic("cleveland", 20),
            model=dict(name="row_mlp", dropout=0.2),
            few=few,
            batch_size=min(32, 2 * few),
        )
        for name, val, few in (("hungarian", 20, 10), ("va", 15, 10), ("switzerland", 2, 2))
    },
}


def get_config(arg=""):
    """arg: a set, and `source` for the run that its transfers start from."""
    words = jaxfer.config.words(arg, ("source", *SETS))
    chosen = SETS[next((name for name in SETS if name in words), "usps")]
    config = jaxfer.config.base()
    config.model = chosen["model"]
    config.data = chosen["data"]
    config.update(batch_size=chosen.get("batch_size", 32), steps=100, warmup=10, eval_every=0, weight_decay=1e-2)
    if "source" in words:
        config.data = chosen["before"]
        config.update(batch_size=64, steps=1000, warmup=50, lr=2e-3)
    return config


def sweep(arg):
    """The source, and every arm."""
    chosen = SETS[arg]
    begun = {"init": chosen.get("init", "sibling:source"), "head": "reset" if "init" in chosen else "keep"}
    if "before" in chosen:  # whose classes are the set's
        yield Cell(name="source", arg=f"{arg},source")
    for seed in range(SEEDS):
        for amount in AMOUNTS:
            data = {"data.labels_per_class": chosen["few"]} if amount == "few" else {}
            once = {**data, "seed": seed, "test": True}
            for name, fields in TRANSFERS.items():
                yield Cell(
                    name=f"{amount} {name} {seed}", overrides={**fields, **begun, **once}, group=f"{amount} {name}"
                )
            for multiple in chosen.get("multiples", MULTIPLES):
                for rate in SCRATCH_RATES:
                    fields = {"lr": rate, "steps": 100 * multiple, "warmup": 10 * multiple}
                    group = f"{amount} scratch x{multiple} at {rate:g}"
                    yield Cell(name=f"{group} {seed}", overrides={**fields, **once}, group=group)

"""From a labelled domain to one without labels: every method of domain adaptation beside source only.

    jaxfer sweep experiments/methods/domains.py:digits --processes 2 --workdir runs/methods/digits
    jaxfer sweep experiments/methods/domains.py:heart --processes 2 --workdir runs/methods/heart
    python experiments/methods/domains_table.py runs/methods/digits runs/methods/heart

`digits`: MNIST and USPS, a small ResNet from scratch, 600 steps of 64 labelled images and 64 of the target. `heart`:
twelve pairs of four clinics, a small network of rows, 300 steps of 32 and 32. Every method has its own defaults, rates
and steps are the same, the last parameters are the result, and no label of the target chooses anything. `adda`, `shot`,
`adabn` and `tent` go on from the run of source only. The ceiling, `target labels`, is source only of the pair in
reverse, on its own test split.
"""

import itertools

import jaxfer.config
from jaxfer.sweeps import Cell

SEEDS = 3
DOMAINS = {"digits": ("mnist", "usps"), "heart": ("cleveland", "hungarian", "switzerland", "va")}
TEST = 0.4  # of a clinic's rows
METHODS = {
    "coral": {"method": "coral"},
    "dan": {"method": "dan"},
    "jan": {"method": "jan"},
    "mcc": {"method": "mcc"},
    "mdd": {"method": "mdd"},
    "mcd": {"method": "mcd"},
    "dann": {"method": "dann"},
    "cdan": {"method": "cdan"},
    "cdan+e": {"method": "cdan", "options": {"entropy": True}},
    "self-training": {"method": "self_training"},
    "mean teacher": {"method": "self_training", "options": {"teacher": "ema"}},
}
# What goes on from the network of source only, for as many steps.
LATER = {
    "adda": {"method": "adda", "lr": 2e-4},
    "shot": {"method": "shot", "lr": 2e-4},
    "adabn": {"method": "adabn"},
    "tent": {"method": "probe", "adds": ("tent",), "options": {"reset": "online"}, "lr": 0.0, "steps": 1, "warmup": 0},
}
NORMS = ("adabn",)  # needs running statistics, which the network of rows has none of


def data(kind, domain):
    """A domain's fields."""
    if kind == "digits":
        return dict(source="npz", path=f"vision/{domain}.npz")
    columns = dict(
        numbers=("age", "trestbps", "chol", "thalach", "oldpeak", "ca"),
        categories=("sex", "cp", "fbs", "restecg", "exang", "slope", "thal"),
        label="disease",
        zero_is_missing=("chol", "trestbps"),
    )
    return dict(source="csv_rows", path=f"tabular/heart/{domain}.csv", test_fraction=TEST, **columns)


def get_config(arg=""):
    """arg: `SOURCE_TARGET`, `mnist_usps` if none."""
    kinds = {f"{a}_{b}": (kind, a, b) for kind, names in DOMAINS.items() for a, b in itertools.permutations(names, 2)}
    (pair,) = jaxfer.config.words(arg, kinds) or ("mnist_usps",)
    kind, source, target = kinds[pair]
    config = jaxfer.config.base()
    config.data = data(kind, source)
    config.stream.target = data(kind, target)  # its labels stay sealed
    config.update(lr=1e-3, weight_decay=1e-2)
    if kind == "digits":
        config.model = dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(16, 16, 1))
        config.update(batch_size=64, steps=600, warmup=50, eval_every=600)
    else:
        config.model = dict(name="row_mlp", dropout=0.2)
        config.update(batch_size=32, steps=300, warmup=20, eval_every=300)
    return config


def sweep(arg):
    """arg: `digits` or `heart`. Each pair, method and seed; the test splits once each, at a run's end."""
    for (source, target), seed in itertools.product(itertools.permutations(DOMAINS[arg], 2), range(SEEDS)):
        pair, once = f"{source}_{target}", {"seed": seed, "test": True}
        before = f"{pair}{seed}"
        yield Cell(name=before, arg=pair, overrides=once, group="source only")
        for name, fields in METHODS.items():
            yield Cell(arg=pair, overrides={**fields, **once}, group=name)
        for name, fields in LATER.items():
            if arg == "digits" or name not in NORMS:
                begun = {**fields, **once, "init": f"sibling:{before}", "head": "keep"}
                if name == "adda":
                    begun["networks.source"] = begun["init"]
                yield Cell(arg=pair, overrides=begun, group=name)

"""Handwritten digits across two collections, MNIST and USPS: every method of domain adaptation beside source only.

    jaxfer sweep experiments/methods/domains.py:mnist_usps --processes 2 --workdir runs/methods/mnist_usps
    jaxfer sweep experiments/methods/domains.py:usps_mnist --processes 2 --workdir runs/methods/usps_mnist
    python experiments/methods/domains_table.py runs/methods/mnist_usps runs/methods/usps_mnist

A small ResNet from scratch, 600 steps of 64 labelled examples, and 64 of the target without labels. Every method has
its own defaults, rates and steps are the same, the last parameters are the result, and no label of the target chooses
anything. `target labels` is trained on the target itself: the ceiling.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

PAIRS = {"mnist_usps": ("mnist", "usps"), "usps_mnist": ("usps", "mnist")}
SEEDS = 3
METHODS = {
    "source only": {"method": "full"},
    "coral": {"method": "coral"},
    "dan": {"method": "dan"},
    "jan": {"method": "jan"},
    "mcc": {"method": "mcc"},
    "mdd": {"method": "mdd"},
    "dann": {"method": "dann"},
    "cdan": {"method": "cdan"},
    "cdan+e": {"method": "cdan", "options": {"entropy": True}},
}


def get_config(arg=""):
    """arg: `mnist_usps` (default) or `usps_mnist`."""
    (pair,) = jaxfer.config.words(arg, PAIRS) or ("mnist_usps",)
    source, target = PAIRS[pair]
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(16, 16, 1))
    config.data = dict(source="npz", path=f"vision/{source}.npz")
    config.stream.target = dict(source="npz", path=f"vision/{target}.npz")  # its labels stay sealed
    config.update(batch_size=64, steps=600, warmup=50, eval_every=600, lr=1e-3, weight_decay=1e-2)
    return config


def sweep(arg):
    """Each method under three seeds; the test splits of both collections once each, at a run's end."""
    source, target = PAIRS[arg or "mnist_usps"]
    for seed in range(SEEDS):
        for name, fields in METHODS.items():
            yield Cell(overrides={**fields, "seed": seed, "test": True}, group=name)
        swapped = {"data.path": f"vision/{target}.npz", "stream.target.path": f"vision/{source}.npz"}
        yield Cell(overrides={**swapped, "seed": seed, "test": True}, group="target labels")

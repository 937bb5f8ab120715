"""One backbone, two tasks: clothes and digits, 20 labels a class each, a head and a loss for each.

jaxfer sweep configs/two_tasks.py --processes 2
jaxfer run configs/two_tasks.py --config.stream.digits.weight=0.5

Test accuracy, 3 seeds: clothes 0.672 with the digits and 0.693 alone, digits 0.719 and 0.732. These two tasks share
nothing that helps either; what they cost each other on one backbone is one or two points.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

CLOTHES, DIGITS = "vision/fashion_mnist.npz", "vision/mnist.npz"


def get_config(arg=""):
    """arg: `both` (default), `clothes` or `digits` alone, and `tiny` for two steps on synthetic data."""
    words = jaxfer.config.words(arg, ("both", "clothes", "digits", "tiny"))
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(28, 28, 1))
    config.data = dict(source="npz", path=DIGITS if "digits" in words else CLOTHES, labels_per_class=20)
    if not words & {"clothes", "digits"}:
        config.stream.digits = dict(source="npz", path=DIGITS, labels_per_class=20, task="classification", weight=1.0)
    config.update(batch_size=50, steps=200, warmup=20, lr=3e-3, weight_decay=1e-2)
    if "tiny" in words:
        config.model.update(stage_sizes=(1,), width=4, image=(8, 8, 1))
        config.data = dict(source="synthetic", image=(8, 8, 1), examples=40)
        if "digits" in config.stream:
            config.stream.digits = dict(**config.data.to_dict(), task="classification")
        config.update(batch_size=4, steps=2, warmup=1)
    return config


def sweep():
    """Both tasks on one backbone, and each alone, under three seeds; the test splits once each."""
    for arg in ("both", "clothes", "digits"):
        for seed in range(3):
            yield Cell(arg=arg, overrides={"seed": seed, "test": True}, group=arg)

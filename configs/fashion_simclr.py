"""Clothes without labels, then from ten of each class: SimCLR on Fashion-MNIST -> a linear probe of its features.

jaxfer sweep configs/fashion_simclr.py --processes 2
jaxfer run configs/fashion_simclr.py:simclr && jaxfer run configs/fashion_simclr.py:probe

Test accuracy by the first command, 3 seeds: 0.699 ± 0.050 from SimCLR's features, 0.470 ± 0.112 from random ones; the
paired difference is +0.229, 95 % interval [+0.073, +0.384].
"""

import jaxfer.config
from jaxfer.sweeps import Cell

METHODS = ("probe", "random")


def get_config(arg=""):
    """arg: `simclr` (no labels), `probe` of its features (default) or of `random` ones; `tiny` for two steps."""
    words = jaxfer.config.words(arg, ("simclr", "tiny", *METHODS))
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(28, 28, 1))
    config.data = dict(source="npz", path="vision/fashion_mnist.npz")
    config.update(seed=0, eval_every=0)
    if "simclr" in words:
        config.task.name = "unlabelled"
        config.method = "simclr"
        config.data.augment = ("crop", "flip", "jitter")
        config.stream.view = dict(rows="same")
        config.update(batch_size=128, steps=600, warmup=50, lr=2e-3, weight_decay=1e-4)
    else:
        config.data.labels_per_class = 10
        config.update(method="probe", batch_size=50, steps=200, lr=3e-2)
        config.init = "scratch" if "random" in words else "sibling:simclr"
    if "tiny" in words:
        config.init = "scratch"
        config.model.update(stage_sizes=(1,), width=4, image=(8, 8, 1))
        config.data = dict(source="synthetic", image=(8, 8, 1), examples=40, augment=config.data.get("augment", ()))
        config.update(batch_size=4, steps=2, warmup=1)
    return config


def sweep():
    """Three networks of other seeds without labels; a probe of each and of random weights, test once each."""
    for seed in range(3):
        yield Cell(name=f"simclr{seed}", arg="simclr", overrides={"seed": seed})
        yield Cell(arg="probe", overrides={"seed": seed, "init": f"sibling:simclr{seed}", "test": True}, group="simclr")
        yield Cell(arg="random", overrides={"seed": seed, "test": True}, group="random")

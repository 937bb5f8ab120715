"""Handwritten digits from one collection to another, without labels: MNIST -> USPS zip codes.

jaxfer sweep configs/mnist_usps.py --processes 2
jaxfer run configs/mnist_usps.py:dann --config.test=true

Accuracy on USPS' test split by the first command (`target/accuracy` of each run's result.json), 5 seeds: source only
0.625 ± 0.056, DANN 0.769 ± 0.057; DANN is +0.144 over source only, paired 95 % interval [+0.100, +0.187], and loses 0.5
points on MNIST. No label of USPS chose anything: the discriminator's weight, 0.3, was chosen on the pair in
reverse, by the accuracy on MNIST's training images. Before that, the default of 1 had been run on this pair: +0.038
[-0.003, +0.078].
"""

import jaxfer.config
from jaxfer.sweeps import Cell

METHODS = ("full", "dann")


def get_config(arg=""):
    """arg: `full` (source only: default) or `dann`, and `tiny` for two steps on synthetic data."""
    words = jaxfer.config.words(arg, ("tiny", *METHODS))
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(16, 16, 1))
    config.data = dict(source="npz", path="vision/mnist.npz")
    config.stream.target = dict(source="npz", path="vision/usps.npz")  # its labels stay sealed
    config.update(batch_size=64, steps=1000, warmup=50, lr=1e-3, weight_decay=1e-2)
    if "dann" in words:
        config.update(method="dann", options=dict(trade_off=0.3))
    if "tiny" in words:
        config.model.update(stage_sizes=(1,), width=4, image=(8, 8, 1))
        config.data = dict(source="synthetic", image=(8, 8, 1), examples=40)
        config.stream.target = dict(source="synthetic", image=(8, 8, 1), examples=40)
        config.update(batch_size=4, steps=2, warmup=1)
    return config


def sweep():
    """Source only and DANN under five seeds; the test splits of both collections once each."""
    for method in METHODS:
        for seed in range(5):
            yield Cell(arg=method, overrides={"seed": seed, "test": True}, group=method)

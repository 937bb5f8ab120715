"""Handwritten digits: pretrain a small ResNet on 0-4, transfer it to 5-9 with few labels. The quickstart.

    jaxfer sweep configs/digits.py                                     # pretrain, then 5 methods x 5 seeds
    jaxfer sweep configs/digits.py --config.data.labels_per_class=20 --workdir runs/digits20
    jaxfer run configs/digits.py:lora --workdir runs/digits/mine       # one transfer, beside a pretrained run

The rates were chosen on the validation split with seeds 100 to 105; the sweep's seeds are 0 to 4.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

METHODS = ("scratch", "probe", "full", "lp_ft", "lora")


def get_config(arg=""):
    """arg: `pretrain` or one of METHODS (default `full`), and `tiny` for two steps on synthetic data."""
    words = jaxfer.config.words(arg, ("pretrain", "tiny", *METHODS))
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(8, 8, 1))
    config.data = dict(source="digits", classes=("5", "6", "7", "8", "9"), labels_per_class=5, val_per_class=20)
    config.init = "sibling:pretrain"
    config.update(method="full", batch_size=25, steps=80, lr=3e-3, test=True)
    if "pretrain" in words:
        config.init = "scratch"
        config.data = dict(source="digits", classes=("0", "1", "2", "3", "4"), val_per_class=20, augment=("shift",))
        config.task.label_smoothing = 0.1
        config.update(batch_size=64, steps=300, warmup=20, weight_decay=1e-2, test=False)
    if "scratch" in words:
        config.init = "scratch"
    if "probe" in words:
        config.update(method="probe", lr=3e-2)
    if "lora" in words:
        config.method = "lora"
        config.options.rank = 4
    if "lp_ft" in words:  # Kumar et al., 2022, arXiv:2202.10054: the head first, so that it does not tear the features
        config.stages = ("probe", "full")
        config.stage.probe = dict(method="probe", lr=3e-2, steps=40)
        config.stage.full = dict(method="full", steps=40)
    if "tiny" in words:
        config.init = "scratch"
        config.data = dict(source="synthetic", image=(8, 8, 1), examples=40)
        config.update(batch_size=4, steps=2, warmup=0)
        for name in config.stages:
            config.stage[name].steps = 1
    return config


def sweep():
    """The source, then every method under 5 seeds; a seed draws the labels, the head and the batches."""
    yield Cell(name="pretrain", arg="pretrain")
    for method in METHODS:
        for seed in range(5):
            yield Cell(name=f"{method}-{seed}", arg=method, overrides={"seed": seed}, group=method)

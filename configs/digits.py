"""Handwritten digits: pretrain a small ResNet on 0-4, transfer it to 5-9 with few labels. The quickstart.

jaxfer compare configs/digits.py --processes 2     # scratch and four transfers at 5 labels a class, with a verdict
jaxfer compare configs/digits.py --config.compare.labels=1,5,20,100 --config.compare.seeds=10 --workdir runs/labels
jaxfer sweep configs/digits.py                     # the probe's accuracy over eight rates
jaxfer run configs/digits.py:pretrain && jaxfer run configs/digits.py:lora
"""

import jaxfer.config
from jaxfer.sweeps import Cell

METHODS = ("full", "probe", "lora", "lp_ft")


def get_config(arg=""):
    """arg: `pretrain` or one of METHODS (default `full`), and `tiny` for two steps on synthetic data."""
    words = jaxfer.config.words(arg, ("pretrain", "tiny", *METHODS))
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(8, 8, 1))
    config.data = dict(source="digits", classes=("5", "6", "7", "8", "9"), labels_per_class=5, val_per_class=20)
    config.init = "sibling:pretrain"
    config.update(batch_size=25, steps=80, eval_every=20)
    config.compare.stage.lora = dict(options=dict(rank=4))
    if "pretrain" in words:
        config.init = "scratch"
        config.data = dict(source="digits", classes=("0", "1", "2", "3", "4"), val_per_class=20, augment=("shift",))
        config.task.label_smoothing = 0.1
        config.update(batch_size=64, steps=300, lr=3e-3, warmup=20, weight_decay=1e-2, eval_every=0)
    for method in words & {"probe", "full"}:
        config.method = method
    if "lora" in words:
        config.update(method="lora", options=dict(rank=4))
    if "lp_ft" in words:  # Kumar et al., 2022, arXiv:2202.10054: the head first, so that it does not tear the features
        config.stages = ("probe", "full")
        config.stage.probe = dict(method="probe", steps=40)
        config.stage.full = dict(method="full", steps=40)
    if "tiny" in words:
        config.init = "scratch"
        config.data = dict(source="synthetic", image=(8, 8, 1), examples=40)
        config.update(batch_size=4, steps=2, warmup=0)
        for name in config.stages:
            config.stage[name].steps = 1
    return config


def sweep():
    """The source, which `compare` starts from too; then the probe over eight rates, three seeds each."""
    yield Cell(name="pretrain", arg="pretrain")
    for rate in (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0):
        for seed in range(3):
            yield Cell(arg="probe", overrides={"lr": rate, "seed": seed}, group=f"lr={rate:g}")

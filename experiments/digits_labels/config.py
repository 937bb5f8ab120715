"""Digits 0-4 to 5-9: the study of label counts in this folder.

jaxfer compare experiments/digits_labels/config.py --config.compare.labels=1,5,20,100 --workdir runs/digits_labels
jaxfer sweep experiments/digits_labels/config.py --workdir runs/rates
"""

import jaxfer.config
from jaxfer.sweeps import Cell


def get_config(arg=""):
    """arg: `pretrain` for the source, `probe` for the sweep's method."""
    words = jaxfer.config.words(arg, ("pretrain", "probe"))
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(8, 8, 1))
    config.data = dict(source="digits", classes=("5", "6", "7", "8", "9"), labels_per_class=5, val_per_class=20)
    config.init = "sibling:pretrain"
    config.update(batch_size=25, steps=80, eval_every=20)
    config.compare.seeds = 10
    config.compare.stage.lora = dict(options=dict(rank=4))
    if "pretrain" in words:
        config.init = "scratch"
        config.data = dict(source="digits", classes=("0", "1", "2", "3", "4"), val_per_class=20, augment=("shift",))
        config.task.label_smoothing = 0.1
        config.update(batch_size=64, steps=300, lr=3e-3, warmup=20, weight_decay=1e-2, eval_every=0)
    if "probe" in words:
        config.method = "probe"
    return config


def sweep():
    """The source run, which `compare` also starts from; then the probe at eight rates, three seeds each."""
    yield Cell(name="pretrain", arg="pretrain")
    for rate in (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0):
        for seed in range(3):
            yield Cell(arg="probe", overrides={"lr": rate, "seed": seed}, group=f"lr={rate:g}")

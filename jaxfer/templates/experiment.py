"""__NAME__: does pretraining on the digits 0-4 help with 5-9?

jaxfer run configs/__NAME__.py:pretrain && jaxfer run configs/__NAME__.py
jaxfer compare configs/__NAME__.py --processes 2     # scratch, full and probe, tuned alike, with a verdict
jaxfer sweep configs/__NAME__.py                     # the probe over three rates
"""

import jaxfer.config
from jaxfer.sweeps import Cell


def get_config(arg=""):
    """arg: `pretrain`, `probe`, and `tiny` for two steps."""
    words = jaxfer.config.words(arg, ("pretrain", "probe", "tiny"))
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(8, 8, 1))
    config.data = dict(source="digits", classes=("5", "6", "7", "8", "9"), labels_per_class=5, val_per_class=20)
    config.init = "sibling:pretrain"  # or a Hub name, a folder, a file: docs/checkpoints
    config.update(batch_size=25, steps=80, eval_every=20)
    if "pretrain" in words:
        config.init = "scratch"
        config.data = dict(source="digits", classes=("0", "1", "2", "3", "4"), val_per_class=20)
        config.update(batch_size=64, steps=300, lr=3e-3, warmup=20)
    if "probe" in words:
        config.method = "probe"
    if "tiny" in words:
        config.init = "scratch"
        config.update(batch_size=4, steps=2, warmup=0)
    return config


def sweep():
    """The source first, which `compare` starts from too; then what the table shows."""
    yield Cell(name="pretrain", arg="pretrain")
    for rate in (1e-2, 1e-1, 1.0):
        yield Cell(arg="probe", overrides={"lr": rate}, group=f"lr={rate:g}")

"""The quickstart: a small ResNet knows clean digits, the target is noisy ones with few labels.

jaxfer compare configs/digits.py --processes 2     # scratch, three transfers and a wrong source, with a verdict
jaxfer compare configs/digits.py --config.compare.labels=1,5,20,80 --config.compare.seeds=10 --workdir runs/labels
jaxfer sweep configs/digits.py                     # fine-tuning's accuracy over six rates
jaxfer run configs/digits.py:pretrain && jaxfer run configs/digits.py:lora
"""

import jaxfer.config
from jaxfer.sweeps import Cell

METHODS = ("full", "probe", "lora", "lp_ft")


def get_config(arg=""):
    """arg: `pretrain`, `mixed` (the wrong source) or one of METHODS (default `full`), and `tiny` for two steps."""
    words = jaxfer.config.words(arg, ("pretrain", "mixed", "tiny", *METHODS))
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(8, 8, 1))
    config.data = dict(source="digits", noise=64.0, labels_per_class=5, val_per_class=20)
    config.update(init="sibling:pretrain", head="keep")  # the same ten digits, so the source's output layer fits
    config.update(batch_size=25, steps=40, eval_every=0)
    config.compare.sources.mixed = "sibling:mixed"
    config.compare.methods = ("probe", "full", "lora", "lora@mixed")
    config.compare.trials = 2
    config.compare.grid.scratch = dict(lr=(1e-2,))  # its best rate; the default is tried as well
    config.compare.stage.lora = dict(options=dict(rank=4))
    if words & {"pretrain", "mixed"}:
        config.update(init="scratch", head="auto")
        config.data = dict(source="digits", val_per_class=20, augment=("shift",), mixed_labels="mixed" in words)
        config.task.label_smoothing = 0.1
        config.update(batch_size=64, steps=300, lr=3e-3, warmup=20, weight_decay=1e-2, eval_every=0)
    for method in words & {"probe", "full"}:
        config.method = method
    if "lora" in words:
        config.update(method="lora", options=dict(rank=4))
    if "lp_ft" in words:  # Kumar et al., 2022, arXiv:2202.10054: the head first, so that it does not tear the features
        config.stages = ("probe", "full")
        config.stage.probe = dict(method="probe", steps=30)
        config.stage.full = dict(method="full", steps=30)
    if "tiny" in words:
        config.update(init="scratch", head="auto")
        config.data = dict(source="synthetic", image=(8, 8, 1), examples=40)
        config.update(batch_size=4, steps=2, warmup=0)
        for name in config.stages:
            config.stage[name].steps = 1
    return config


def sweep():
    """The sources, which `compare` starts from too; then fine-tuning over six rates, three seeds each."""
    yield Cell(name="pretrain", arg="pretrain")
    yield Cell(name="mixed", arg="mixed")
    for rate in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2):
        for seed in range(3):
            yield Cell(arg="full", overrides={"lr": rate, "seed": seed}, group=f"lr={rate:g}")

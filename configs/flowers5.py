"""Five flowers from a small ImageNet network: MobileNetV1-0.75 -> 1,000 photos.

jaxfer sweep configs/flowers5.py --processes 2       # the probe in 300 steps, fine-tuning in 200
jaxfer compare configs/flowers5.py --processes 2     # scratch, probe and fine-tuning in 100 each
jaxfer run configs/flowers5.py --config.seed=1

Test accuracy, 3 seeds (experiments/first_transfers): probe 0.681 ± 0.039, full 0.724 ± 0.042; 116 and 579 s a run.
"""

import jaxfer.config
from jaxfer.sweeps import Cell


def get_config(arg=""):
    """arg: `full` or `probe` as `sweep` has them, else as `compare` has; `tiny` for two steps on synthetic data."""
    words = jaxfer.config.words(arg, ("full", "probe", "tiny"))
    config = jaxfer.config.base()
    config.model = dict(name="auto", resize=())  # whole: cutting the centre out is for photos that are not yet square
    config.differs = ("resize",)
    config.init = "weights/mobilenet_v1_0.75_224"
    config.data = dict(source="folder", path="vision/flowers5")
    config.update(batch_size=16, steps=100, warmup=10, eval_every=50, select="best", lr=1e-3)
    config.compare.update(methods=("probe", "full"), seeds=3, trials=1)
    config.compare.stage.probe = dict(lr=3e-2)
    if "probe" in words:
        config.update(method="probe", lr=1e-2, steps=300, warmup=0, eval_every=100)
    if "full" in words:
        config.data.augment = ("flip",)
        config.update(steps=200, warmup=20, eval_every=100)
    if "tiny" in words:
        config.init = "scratch"
        config.model = dict(name="mobilenet_v1", image=(32, 32, 3), depth_multiplier=0.25)
        config.data = dict(source="synthetic", image=(32, 32, 3), examples=40)
        config.update(batch_size=4, steps=2, warmup=1)
    return config


def sweep():
    """Linear probe and full fine-tuning under three seeds; the test split once each."""
    for method in ("probe", "full"):
        for seed in range(3):
            yield Cell(arg=method, overrides={"seed": seed, "test": True}, group=method)

"""Cats, dogs and what is behind them, pixel by pixel: MobileNetV1-0.75 of ImageNet -> 210 masks.

jaxfer run configs/pets_seg.py

Test mIoU of that command with `--config.test=true`, 3 seeds: 0.831 ± 0.012 (val 0.804 ± 0.039); 38 s a run. A mask of
background alone has 0.225 on test and 0.223 on train (`jaxfer.tasks.segmentation.constant`).
"""

import jaxfer.config


def get_config(arg=""):
    """arg: `tiny` for two steps on a handful of made-up masks."""
    words = jaxfer.config.words(arg, ("tiny",))
    config = jaxfer.config.base()
    config.task.name = "segmentation"
    config.init = "weights/mobilenet_v1_0.75_224"
    config.model = dict(name="auto", image=(128, 128, 3), output_stride=16)
    config.differs = ("image",)
    config.data = dict(source="masks", path="vision/pets_seg", augment=("flip",))
    config.update(batch_size=16, steps=120, warmup=12, eval_every=40, select="best", lr=1e-3, freeze_units=7)
    if "tiny" in words:
        config.init = "scratch"
        config.model = dict(name="mobilenet_v1", image=(32, 32, 3), depth_multiplier=0.25, output_stride=8)
        config.data = dict(source="masks", path="tests/data/masked")
        config.update(batch_size=4, steps=2, warmup=1)
    return config

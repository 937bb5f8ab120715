"""A real target from an .npz file, with L2-SP (arXiv:1802.01483) to hold a source's backbone in place.

jaxfer run configs/regression.py --config.data.path=targets.npz --config.init=run:runs/source
"""

import jaxfer.config


def get_config(arg=""):
    """arg: `tiny` for two steps on synthetic data."""
    words = jaxfer.config.words(arg, ("tiny",))
    config = jaxfer.config.base()
    config.model = dict(name="resnet", stage_sizes=(2, 2, 2), width=16, stem="cifar", image=(32, 32, 3))
    config.data = dict(source="npz", target="value")
    config.task = dict(name="regression")
    config.update(method="l2sp", batch_size=64, steps=1000, warmup=50, lr=1e-3, eval_every=100, select="best")
    if "tiny" in words:
        config.model = dict(name="resnet", stage_sizes=(1,), width=4, stem="cifar", image=(8, 8, 3))
        config.data = dict(source="synthetic", image=(8, 8, 3), examples=40, target="value")
        config.update(batch_size=4, steps=2, warmup=0)
    return config

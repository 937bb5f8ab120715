"""Pneumonia on small chest X-rays from a network that knows CIFAR-10: ResNet-20 -> PneumoniaMNIST.

jaxfer compare configs/pneumonia_mnist.py --processes 2
jaxfer run configs/pneumonia_mnist.py --config.seed=1

Test accuracy, 3 seeds (experiments/first_transfers): scratch 0.845 ± 0.018, probe 0.798 ± 0.051, full 0.881 ± 0.046;
82, 21 and 190 s a run.
"""

import jaxfer.config


def get_config(arg=""):
    """arg: `full` (default) or `probe`, and `tiny` for two steps on synthetic data."""
    words = jaxfer.config.words(arg, ("full", "probe", "tiny"))
    config = jaxfer.config.base()
    config.model.name = "resnet"  # its config.json names no family of ours; the shapes tell the rest
    config.init = "weights/cifar10_resnet20"
    config.data = dict(source="npz", path="vision/pneumonia_mnist.npz")
    config.update(batch_size=50, steps=200, warmup=20, eval_every=50, select="best", lr=1e-3)
    config.compare.update(methods=("probe", "full"), seeds=3, trials=2)
    if "probe" in words:
        config.update(method="probe", lr=1e-2)
    if "tiny" in words:
        config.init = "scratch"
        config.model = dict(name="resnet", stage_sizes=(1, 1), width=4, stem="cifar", image=(8, 8, 1))
        config.data = dict(source="synthetic", image=(8, 8, 1), examples=40)
        config.update(batch_size=4, steps=2, warmup=1)
    return config

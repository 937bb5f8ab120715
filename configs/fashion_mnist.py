"""Clothes from a network that knows CIFAR-10: ResNet-20 -> Fashion-MNIST with 100 labels a class.

jaxfer compare configs/fashion_mnist.py --processes 2
jaxfer run configs/fashion_mnist.py --config.seed=1

Test accuracy, 3 seeds (experiments/first_transfers): scratch 0.797 ± 0.008, probe 0.601 ± 0.004, full 0.857 ± 0.020;
131, 30 and 132 s a run.
"""

import jaxfer.config


def get_config(arg=""):
    """arg: `full` (default) or `probe`, and `tiny` for two steps on synthetic data."""
    words = jaxfer.config.words(arg, ("full", "probe", "tiny"))
    config = jaxfer.config.base()
    config.model.name = "resnet"  # its config.json names no family of ours; the shapes tell the rest
    config.init = "weights/cifar10_resnet20"
    config.data = dict(source="npz", path="vision/fashion_mnist.npz", labels_per_class=100)
    config.update(batch_size=50, steps=200, warmup=20, eval_every=50, select="best", lr=1e-3)
    config.compare.update(methods=("probe", "full"), seeds=3, trials=1)
    if "probe" in words:
        config.update(method="probe", lr=1e-2)
    if "tiny" in words:
        config.init = "scratch"
        config.model = dict(name="resnet", stage_sizes=(1, 1), width=4, stem="cifar", image=(8, 8, 1))
        config.data = dict(source="synthetic", image=(8, 8, 1), examples=40)
        config.update(batch_size=4, steps=2, warmup=1)
    return config

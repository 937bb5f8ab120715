"""Zip codes without labels, then with 10 or 100: what each way of pretraining adds to training from scratch on USPS.

    jaxfer sweep experiments/methods/unlabelled.py --processes 2 --workdir runs/methods/unlabelled
    python experiments/methods/unlabelled_table.py runs/methods/unlabelled

300 steps of 64 images of the training split without labels, by a small ResNet or a small ViT; then 200 steps on 1 or
10 labels a class, of the head alone or of everything. `scratch` starts from random weights. Rates and steps were fixed
before any run, the last parameters are the result, and every method has its defaults.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

SEEDS, LABELS, WAYS = 3, (1, 10), ("probe", "full")
METHODS = {"resnet": ("simclr", "moco", "byol", "dino"), "vit": ("dino", "simmim", "mae")}
MODELS = {
    "resnet": dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar"),
    "vit": dict(name="vit", width=64, layers=4, heads=4, mlp_width=128, patch=4),
}
RATES = {"probe": 1e-2, "full": 1e-3}


def get_config(arg=""):
    """arg: `resnet` (default) or `vit`, a method that reads no labels, or `probe` or `full` (default)."""
    named = {method for methods in METHODS.values() for method in methods}
    words = jaxfer.config.words(arg, (*MODELS, *WAYS, *named))
    config = jaxfer.config.base()
    config.model = dict(**MODELS["vit" if "vit" in words else "resnet"], image=(16, 16, 1))
    config.data = dict(source="npz", path="vision/usps.npz")
    (method,) = words - {*MODELS} or {"full"}
    config.update(method=method, eval_every=0, weight_decay=1e-2)
    if method in named:
        config.task.name = "unlabelled"
        config.update(batch_size=64, steps=300, warmup=30, lr=1e-3)
        if method not in ("simmim", "mae"):
            config.data.augment = ("crop", "jitter")
            config.stream.view = dict(rows="same")
    else:
        config.data.labels_per_class = 10
        config.update(batch_size=10, steps=200, warmup=20, lr=RATES[method])
    return config


def sweep():
    """Each network without labels, then with few in both ways; the test split once for each of these."""
    for seed in range(SEEDS):
        for model, methods in METHODS.items():
            for method in ("scratch", *methods):
                before = f"{model}_{method}{seed}"
                if method != "scratch":
                    yield Cell(name=before, arg=f"{model},{method}", overrides={"seed": seed})
                init = {} if method == "scratch" else {"init": f"sibling:{before}", "head": "reset"}
                for way in WAYS:
                    for labels in LABELS:
                        fields = {"seed": seed, "test": True, "data.labels_per_class": labels, **init}
                        group = f"{model}, {method}, {way}, {10 * labels} labels"
                        yield Cell(arg=f"{model},{way}", overrides=fields, group=group)

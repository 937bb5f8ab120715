"""Vectors of the examples of each split, for checks of whole sets.

They are the frozen features that the output layer of `config.init` would read. From scratch, and for a task whose
answer is no class, set of labels or value of a whole example, they are the raw inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from jaxfer import config as configs
from jaxfer.data.split import Split
from jaxfer.diagnosis.opened import Opened
from jaxfer.errors import InputError
from jaxfer.evals.baselines import TOKEN
from jaxfer.ports import make_port
from jaxfer.pretrained import agreement
from jaxfer.stages import make_stages
from jaxfer.training import candidates
from jaxfer.training.fitted import fitted

TOPICS = 64  # axes of the words of texts
SEED = 0


class Vectors(NamedTuple):
    """What stands for the examples.

    Attributes:
      of: {split: float [n, width], or the texts themselves, objects [n]}.
      reads: what they are (`the raw pixels`).
    """

    of: Mapping[str, np.ndarray]
    reads: str


def vectors(opened: Opened, splits: Mapping[str, Split]) -> Vectors:
    """The vectors of these splits; their labels are not read.

    Raises:
      InputError: a checkpoint that can't be read, a model of several inputs from scratch, or inputs it can't read.
    """
    config = opened.config
    if config.init == "scratch" or not (opened.one_class or opened.sets or opened.values):
        (encoding, *others) = opened.encodings
        if others:
            raise InputError("a model of several inputs has no raw features from scratch")
        return Vectors({name: encoding.flat(split) for name, split in splits.items()}, f"the raw {encoding.features}")
    if opened.one_class:
        plan = candidates.planned(config, config.init, opened.overrides, opened.place, "config.init", config)
    else:
        plan = _planned(opened)
    found = {}
    for name, split in splits.items():
        data = dataclasses.replace(plan.data, splits={**plan.data.splits, "train": split})
        found[name] = candidates.frozen(dataclasses.replace(plan, data=data), units=False, say=opened.say).x
    return Vectors(found, f"the frozen features of {config.init}")


def _planned(opened: Opened) -> candidates.Plan:
    """A new head on `config.init` for the config's own task; `candidates.planned` takes classes alone."""
    config, settings = opened.config, configs.base()
    with settings.unlocked(), settings.ignore_type():
        for name in (*candidates.READ, *candidates.MODEL):
            settings[name] = config[name]
        settings.data = {**dict(config.data.items()), "augment": (), "sampling": "", "sampling_by": "", "repeats": 0}
        settings.init, settings.head = config.init, "reset"
    experiment = configs.resolve(agreement.described(settings, opened.place).config)
    data, classes = opened.data, len(opened.data.classes)
    _, experiment = fitted(experiment, make_port(experiment, classes)[0], data.splits["train"], opened.place)
    port, task = make_port(experiment, classes)
    stage = make_stages(experiment, port, task)[0]
    return candidates.Plan(
        init=config.init, experiment=experiment, stage=stage, data=data, notes=(), place=opened.place
    )


def topics(*of: np.ndarray) -> list[np.ndarray]:
    """Vectors as they are; texts as their words, weighted and turned to the largest axes of all of them."""
    if of[0].dtype != object:
        return list(of)
    words = TfidfVectorizer(token_pattern=TOKEN, sublinear_tf=True).fit_transform(np.concatenate(of))
    axes = min(TOPICS, min(words.shape) - 1)
    found = TruncatedSVD(axes, random_state=SEED).fit_transform(words) if axes > 0 else words.toarray()
    return np.split(found, np.cumsum([len(x) for x in of])[:-1])

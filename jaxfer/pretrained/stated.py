"""Facts that config.json states about a model and its head, and options assumed for lack of a file that does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.pretrained.layout import Layout

# Suffixes of transformers' classes whose head classifies whole inputs.
HEADS = (
    "ForSequenceClassification",
    "ForImageClassification",
    "ForImageClassificationWithTeacher",
    "ForAudioClassification",
    "PatchTSTForClassification",
    "PatchTSTForRegression",
)
PREPROCESSING = ("mean", "std", "interpolation", "resize")


def architectures(config: Mapping[str, Any]) -> list[str]:
    """The names of transformers' classes in `architectures`; [] if not stated."""
    names = config.get("architectures") or []
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InputError(f"config.json: expected architectures to be a list of names, found {names!r}")
    return list(names)


def other_head(config: Mapping[str, Any]) -> str | None:
    """The class that the weights were saved from if its head is not a classifier's (`BertForTokenClassification`)."""
    names = [name for name in architectures(config) if "For" in name]
    return names[0] if names and not any(name.endswith(HEADS) for name in names) else None


def model_type(config: Mapping[str, Any], layouts: Iterable[Layout]) -> str | None:
    """`model_type`, or else the type of the class in `architectures`; None if neither is stated."""
    if config.get("model_type") is not None:
        return config["model_type"]
    known = {re.sub("[-_]", "", kind): kind for layout in layouts for kind in layout.model_types}
    classes = (re.sub(r"(For[A-Z]\w*|Model|PreTrainedModel)$", "", name) for name in architectures(config))
    return next((known[name.lower()] for name in classes if name.lower() in known), None)


def assumed(port: Port, options: Mapping[str, Any], soft: Set[str], model_options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that neither a file states nor the config sets: {option: value}.

    Args:
      port: the model with these options.
      options: the port's options, from the files.
      soft: options that the files do not state.
      model_options: options of `config.model`.
    """
    spec = port.encoding
    values = {name: options[name] for name in sorted(soft) if name in options and name not in model_options}
    unstated = (name for name in PREPROCESSING if name not in options and name not in model_options)
    return values | {name: getattr(spec, name) for name in unstated if hasattr(spec, name)}

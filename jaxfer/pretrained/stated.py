"""What config.json states of a model and its head, and what no file states, so that it was assumed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

from jaxfer.data.encodings.spec import Preprocessing
from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.pretrained.layout import Layout

# The ends of transformers' classes whose head gives an output for each class of an input.
HEADS = ("ForSequenceClassification", "ForImageClassification", "ForImageClassificationWithTeacher")
PREPROCESSING = ("mean", "std", "interpolation", "resize")


def architectures(config: Mapping[str, Any]) -> list[str]:
    """The names of transformers' classes; [] where none is stated."""
    names = config.get("architectures") or []
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InputError(f"config.json: expected architectures to be a list of names, found {names!r}")
    return list(names)


def other_head(config: Mapping[str, Any]) -> str | None:
    """The class that the weights were saved from where its head is no classifier's (`BertForTokenClassification`)."""
    names = [name for name in architectures(config) if "For" in name]
    return names[0] if names and not any(name.endswith(HEADS) for name in names) else None


def model_type(config: Mapping[str, Any], layouts: Iterable[Layout]) -> str | None:
    """`model_type`, or where it is absent that of the class in `architectures`; None where neither is there."""
    if config.get("model_type") is not None:
        return config["model_type"]
    known = {kind.replace("_", ""): kind for layout in layouts for kind in layout.model_types}
    classes = (re.sub(r"(For[A-Z]\w*|Model|PreTrainedModel)$", "", name) for name in architectures(config))
    return next((known[name.lower()] for name in classes if name.lower() in known), None)


def assumed(port: Port, options: Mapping[str, Any], soft: Set[str], model_options: Mapping[str, Any]) -> dict[str, Any]:
    """{option: value} of what no file states and the config does not set either.

    Args:
      port: the model with these options.
      options: of the port, as the files tell them.
      soft: those among them that the files leave open.
      model_options: options of `config.model`.
    """
    spec = port.preprocessing
    values = {name: options[name] for name in sorted(soft) if name in options and name not in model_options}
    if isinstance(spec, Preprocessing):
        missing = [name for name in PREPROCESSING if name not in options and name not in model_options]
        values |= {name: getattr(spec, name) for name in missing}
    return values

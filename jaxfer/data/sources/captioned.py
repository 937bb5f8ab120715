"""Texts of labelled examples: the names of their classes in prompts.

Goyal et al., 2022, "Finetune like you pretrain", arXiv:2212.00638: a contrastive model is trained on these pairs by the
loss of its pretraining. The paper draws a prompt for an example in every step; here it has the same one throughout.
"""

from __future__ import annotations

import dataclasses

from jaxfer.data.encodings.text import texts
from jaxfer.data.lookup import fingerprint
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError


def captioned(data: Dataset, prompts: tuple[str, ...], names: tuple[str, ...] = ()) -> Dataset:
    """The data with a column `text`: of an example of a class, the prompt of its place among those of the class.

    Args:
      data: of one class for each example.
      prompts: with one `{}` each, for the class's name.
      names: of the classes in them; empty: the data's own, with spaces for underscores.

    Raises:
      InputError: names or prompts that don't fit.
    """
    known = names or tuple(name.replace("_", " ") for name in data.classes)
    if len(known) != len(data.classes):
        raise InputError(f"data.names: expected a name for each of the {len(data.classes)} classes, found {len(known)}")
    for prompt in prompts:
        if prompt.count("{}") != 1:
            raise InputError(f"data.prompts: expected one {{}} for the class's name, found {prompt!r}")
    splits = {key: split.with_column("text", texts(_read(split, prompts, known))) for key, split in data.splits.items()}
    content = fingerprint([data.fingerprint, "prompts", *prompts, *known])
    return dataclasses.replace(data, splits=splits, fingerprint=content)


def _read(split: Split, prompts: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """The text of every row of the columns, in use or not."""
    found, turns = [], [0] * len(names)
    for k in split.columns["label"].values:
        found.append(prompts[turns[k] % len(prompts)].replace("{}", names[k]))
        turns[k] += 1
    return tuple(found)

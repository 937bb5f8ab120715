"""Infer the model from tensor shapes where config.json is absent or lacks a `model_type`.

Fields of an existing config.json take precedence; the config must set whatever remains open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jaxfer.errors import InputError
from jaxfer.pretrained.layout import Layout, Shapes


def facts(
    layout: Layout, shapes: Shapes, options: Mapping[str, Any], stated: Mapping[str, Any]
) -> tuple[dict[str, Any], set[str]]:
    """(fields of config.json, port options that neither shapes nor the file determine).

    Args:
      layout: the checkpoint's naming.
      shapes: {checkpoint key: shape}.
      options: options that the config sets.
      stated: fields of a config.json without a `model_type`; {} without a file.

    Raises:
      InputError: keys of another layout, or a required fact that is not stated.
    """
    plain = {_without(key, layout.prefixes): shape for key, shape in shapes.items()}
    if layout.bare is None:
        raise InputError(f"no config.json, which a {layout.family} needs; give the checkpoint's whole folder")
    try:
        config, left = layout.bare(plain, {**options, **_heads(stated)})
        return {**config, **stated}, {option for option, field in left.items() if field not in stated}
    except KeyError as error:
        raise InputError(
            f"a {layout.family} of layout {layout.name!r} needs {error.args[0]}, which is missing"
        ) from None


def _heads(stated: Mapping[str, Any]) -> dict[str, Any]:
    return {"heads": stated["num_attention_heads"]} if "num_attention_heads" in stated else {}


def asked(options: Mapping[str, Any], option: str, hint: str) -> Any:
    """An option of the config that shapes don't determine; `InputError` where it is not set."""
    if option not in options:
        raise InputError(f"no config.json, and shapes don't determine the {option}; set config.model.{option}, {hint}")
    return options[option]


def count(shapes: Shapes, pattern: str) -> int:
    """How many numbers the pattern's group takes in the keys: from 0 to the largest."""
    return 1 + max((int(hit[1]) for key in shapes if (hit := re.fullmatch(pattern, key))), default=-1)


def _without(key: str, prefixes: tuple[str, ...]) -> str:
    return next((key[len(prefix) :] for prefix in prefixes if key.startswith(prefix)), key)

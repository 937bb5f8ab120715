"""A layer that a `peft` adapter changes: the adapter's tensors of it, its weight, and its own rank and alpha."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxfer.errors import InputError

# Limits on a stranger's name pattern; peft itself writes plain names.
LONGEST_PATTERN, REPETITIONS, CHOICES = 500, 3, 4


class Layer(NamedTuple):
    """A layer that an adapter changes.

    Attributes:
      init: the adapter, for messages.
      config: its adapter_config.json.
      module: the layer's name.
      tensors: {what stands behind the name: tensor} of the adapter, float64.
      shared: {name: tensor} of all layers.
      key: of the layer's weight in the base.
      weight: [out, in], or [out, in, h, w], float64.
      bias: [out], None without one.
      turned: whether the base stores the weight as [in, out].
    """

    init: str
    config: Mapping[str, Any]
    module: str
    tensors: Mapping[str, np.ndarray]
    shared: Mapping[str, np.ndarray]
    key: str
    weight: np.ndarray
    bias: np.ndarray | None
    turned: bool = False

    @property
    def flat(self) -> np.ndarray:
        """[out, what an output sums]: the weight, windows in peft's order."""
        return self.weight.reshape(len(self.weight), -1)

    def grown(self, update: np.ndarray, scale: float) -> np.ndarray:
        """weight + scale * update, which is checked."""
        with np.errstate(over="ignore", invalid="ignore"):
            update = scale * update
            finite = np.isfinite(update.astype(np.float32)).all()
        if not finite:
            raise InputError(
                f"{self.init}: the update of {self.module}, scaled by {scale:g}, is not finite in float32; correct "
                "lora_alpha, or download the adapter again"
            )
        return self.weight + update

    def refuse(self, names: str) -> InputError:
        """An error for tensors that don't fit the layer."""
        shapes = " and ".join(f"{name} {list(self.tensors[name].shape)}" for name in names.split())
        shapes = shapes.replace("lora_A.weight", "A").replace("lora_B.weight", "B")
        return InputError(
            f"{self.init}: {shapes} of {self.module} don't form an update of {self.key} {list(self.weight.shape)}"
        )

    def scale(self, alpha: str, rank: int) -> float:
        """alpha / rank of this module, from its own or the common ones; with `use_rslora` alpha / sqrt(rank)."""
        config = self.config
        try:
            r = by_module(config.get("rank_pattern"), self.module, config.get("r"))
            value = float(by_module(config.get("alpha_pattern"), self.module, config.get(alpha)))
        except (TypeError, ValueError, re.error) as error:
            where = f"adapter_config.json has no rank and alpha for {self.module} ({error})"
            raise InputError(f"{self.init}: {where}") from None
        if r != rank:
            raise InputError(
                f"{self.init}: adapter_config.json gives {self.module} rank {r!r}, its tensors have {rank}"
            )
        return value / (math.sqrt(rank) if config.get("use_rslora") else rank)

    def number(self, field: str, *, whole: bool = False) -> Any:
        """A number that adapter_config.json states; `InputError` if it doesn't."""
        value = self.config.get(field)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not math.isfinite(value):
            raise InputError(f"{self.init}: adapter_config.json has no {field} (found {value!r})")
        return value


Merged = dict[str, np.ndarray]  # {weight, bias, ...: what it becomes}


def named(modules: Any, module: str) -> bool:
    """Whether peft's list of name ends, or its pattern, is of the module; `ValueError` for a pattern of no use."""
    if isinstance(modules, str):
        _check_quick(modules)
        try:
            return re.fullmatch(modules, module) is not None
        except re.error as error:
            raise ValueError(f"the pattern {modules[:80]!r}: {error}") from None
    return any(module.endswith(name) for name in modules or ())


def by_module(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Looks up a module's value as peft does: the first pattern that matches the end of its name."""
    for pattern, value in (patterns or {}).items():
        _check_quick(pattern)
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _check_quick(pattern: str) -> None:
    if not quick(pattern):
        raise ValueError(f"the pattern {pattern[:80]!r} may take forever to match; name the modules")


def quick(pattern: str) -> bool:
    """Whether an untrusted pattern matches in bounded time: no repeated groups, few repetitions and choices."""
    bare = re.sub(r"\\.|\[\^?\]?[^]]*\]", "x", pattern, flags=re.DOTALL).replace("(?:", "(")
    return (
        len(pattern) <= LONGEST_PATTERN
        and not re.search(r"\)[*+?{]*[*+{]|\(\?", bare)
        and len(re.findall(r"[*+{]", bare)) <= REPETITIONS
        and max(bare.count("?"), bare.count("(")) <= CHOICES
    )

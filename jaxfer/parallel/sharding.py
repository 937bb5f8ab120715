"""Sharding rules: which mesh axes split each parameter, and the moments, anchors and averages derived from it.

`fsdp` keeps a part of every parameter on each device and gathers it where it is used (Rajbhandari et al., 2020,
"ZeRO", arXiv:1910.02054, stage 3); `tensor` splits a layer's own product (Shoeybi et al., 2019, "Megatron-LM",
arXiv:1909.08053) as the port's rules say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec

from jaxfer import rules as selection
from jaxfer.errors import InputError
from jaxfer.models.port import Port
from jaxfer.rules import Rules

# The mesh: examples are split over the first two, parameters over the last two.
DATA, FSDP, TENSOR = AXES = ("data", "fsdp", "tensor")

# For each axis of an array, the mesh axes it is split over.
Split = tuple[tuple[str, ...], ...]


def parse_rules(rules: Rules[str]) -> Rules[Split]:
    """`config.parallel.rules`: ((path pattern, "fsdp -"), ...), a word for each axis of the array.

    A word is `-` (whole), `fsdp`, `tensor` or `fsdp+tensor`.

    Raises:
      InputError: another word, or a mesh axis twice.
    """
    return tuple((pattern, _parse(pattern, text)) for pattern, text in rules)


def _parse(pattern: str, text: str) -> Split:
    split = tuple(() if word == "-" else tuple(word.split("+")) for word in text.split())
    used = [name for names in split for name in names]
    if not split or set(used) - {FSDP, TENSOR} or len(set(used)) < len(used):
        raise InputError(
            f"config.parallel.rules: expected for {pattern!r} one word per axis: -, fsdp, tensor or fsdp+tensor, each "
            f"name once, found {text!r}; write e.g. 'fsdp -'"
        )
    return split


def check_rules(rules: Rules[Split], stages: Sequence[Mapping[str, Any]], sizes: Mapping[str, int]) -> None:
    """Raises `InputError` unless every rule claims some parameter and fits all parameters it claims, in each stage."""
    everything = {path: leaf for leaves in stages for path, leaf in leaves.items()}
    splits = selection.resolve(rules, everything, defaults=((".*", None),), what="config.parallel rule")
    for path, leaf in (item for leaves in stages for item in leaves.items()):
        split, shape = splits[path], leaf.shape
        if split is None:
            continue
        if len(split) != len(shape):
            raise InputError(
                f"config.parallel.rules: {path} has shape {shape}; its rule has {len(split)} words, write {len(shape)}"
            )
        for i, names in enumerate(split):
            if shape[i] % _product(names, sizes):
                raise InputError(
                    f"config.parallel.rules: axis {i} of {path} {shape} can't be split over "
                    f"{'+'.join(names)}={_product(names, sizes)}; split another axis or use a number that divides it"
                )


def left_whole(port: Port, leaves: Mapping[str, Any], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Parameters that the port would split over `tensor`, had they an axis that it divides."""
    axes = selection.resolve((), leaves, defaults=port.tensor_axes)
    return tuple(path for path, axis in axes.items() if axis is not None and leaves[path].shape[axis] % sizes[TENSOR])


def parameter_specs(
    port: Port, leaves: Mapping[str, Any], sizes: Mapping[str, int], rules: Rules[Split] = ()
) -> dict[str, PartitionSpec]:
    """{path: PartitionSpec}; user rules override the defaults entirely.

    By default the port's axis is split over `tensor` where that divides it, and of the others the largest that `fsdp`
    divides over `fsdp` (of equals the first).

    Args:
      port: its `tensor_axes`.
      leaves: {path: anything with a shape}.
      sizes: {mesh axis: devices along it}.
      rules: of `parse_rules`, checked.
    """
    axes = selection.resolve((), leaves, defaults=port.tensor_axes)
    claimed = selection.resolve((), leaves, defaults=(*rules, (".*", None)))
    return {
        path: _spec(_default(leaf.shape, axes[path], sizes) if claimed[path] is None else claimed[path], sizes)
        for path, leaf in leaves.items()
    }


def _default(shape: tuple[int, ...], axis: int | None, sizes: Mapping[str, int]) -> Split:
    split: list[tuple[str, ...]] = [()] * len(shape)
    if axis is not None and shape[axis] % sizes[TENSOR] == 0:
        split[axis] = (TENSOR,)
    free = [i for i in range(len(shape)) if not (split[i] and sizes[TENSOR] > 1) and shape[i] % sizes[FSDP] == 0]
    if free:
        split[max(free, key=lambda i: (shape[i], -i))] += (FSDP,)
    return tuple(split)


def _spec(split: Split, sizes: Mapping[str, int]) -> PartitionSpec:
    kept = [tuple(name for name in names if sizes[name] > 1) or None for names in split]
    while kept and kept[-1] is None:
        kept.pop()
    return PartitionSpec(*kept)


def _product(names: tuple[str, ...], sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[name] for name in names)


def tree_specs(specs: Mapping[str, PartitionSpec], params: Mapping[str, Any], tree: Any) -> Any:
    """A PartitionSpec for every leaf of a State or a part of one.

    A leaf derived from a parameter (a moment, an anchor, an average) is sharded like the parameter: its path ends with
    the parameter's and it has the same shape. All other leaves are replicated.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in selection.flatten(params).items()}

    def spec(keys: tuple[Any, ...], leaf: Any) -> PartitionSpec:
        names = "/".join(str(key.key) for key in keys if isinstance(key, jax.tree_util.DictKey)).split("/")
        for i in range(len(names)):
            path = "/".join(names[i:])
            if shapes.get(path) == tuple(leaf.shape):
                return specs[path]
        return PartitionSpec()

    return jax.tree_util.tree_map_with_path(spec, tree)

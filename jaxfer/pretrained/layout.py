"""Layouts: names and axis orders of a family's leaves in third-party checkpoints, for reading and writing.

A key table maps each jaxfer leaf (`params/stem/conv/kernel`, `batch_stats/stem/norm/mean`) to its checkpoint key and
the transform between the two; every transform permutes or reshapes only, so `convert` then `store` is bitwise.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxfer.errors import InputError, nearest
from jaxfer.models.port import Port
from jaxfer.rules import flatten, unflatten
from jaxfer.stored import Stored

Array = np.ndarray
Shapes = Mapping[str, tuple[int, ...]]  # {checkpoint key: shape}
# (fields of config.json that shapes determine, {option they leave open: the field that would state it})
Facts = tuple[dict[str, Any], dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Transform:
    """A reordering of one tensor, and its exact inverse.

    Attributes:
      name: its name in a ledger; `identity` leaves the tensor unchanged.
      load: checkpoint -> jaxfer.
      store: jaxfer -> checkpoint.
    """

    name: str
    load: Callable[[Array], Array]
    store: Callable[[Array], Array]


def permute(name: str, *axes: int) -> Transform:
    """A transposition: axis i of the leaf is axis `axes[i]` of the checkpoint's tensor."""
    inverse = tuple(axes.index(i) for i in range(len(axes)))
    return Transform(name, lambda x: np.transpose(x, axes), lambda x: np.transpose(x, inverse))


IDENTITY = Transform("identity", lambda x: x, lambda x: x)
CONV = permute("conv", 2, 3, 1, 0)  # [out, in, h, w] <-> [h, w, in, out]
DEPTHWISE = permute("depthwise", 2, 3, 1, 0)  # [channels, 1, h, w] <-> [h, w, 1, channels]
DENSE = permute("dense", 1, 0)  # [out, in] <-> [in, out]


def heads_out(heads: int) -> Transform:
    """Query, key, value: weight [heads * d, in] <-> kernel [in, heads, d], bias [heads * d] <-> [heads, d]."""

    def load(x: Array) -> Array:
        return x.reshape(heads, -1) if x.ndim == 1 else x.T.reshape(x.shape[1], heads, -1)

    def store(x: Array) -> Array:
        return x.reshape(-1) if x.ndim == 2 else x.reshape(x.shape[0], -1).T

    return Transform("heads_out", load, store)


def heads_in(heads: int) -> Transform:
    """Attention's output projection: weight [out, heads * d] <-> kernel [heads, d, out]."""
    return Transform("heads_in", lambda x: x.T.reshape(heads, -1, x.shape[0]), lambda x: x.reshape(-1, x.shape[-1]).T)


@dataclasses.dataclass(frozen=True)
class Key:
    """The place of a leaf in a checkpoint.

    Attributes:
      name: the checkpoint's key.
      transform: between the checkpoint's tensor and the leaf.
      others: alternative keys of some checkpoints; read, never written.
      part: (index, count) of a leaf that is one of several equal parts of the tensor, side by side along `axis`; a part
        without a leaf is one that the reference does not read, written as zeros. None: the leaf is the whole tensor.
      axis: see `part`.
    """

    name: str
    transform: Transform = IDENTITY
    others: tuple[str, ...] = ()
    part: tuple[int, int] | None = None
    axis: int = -1

    def load(self, x: Array) -> Array:
        """The tensor in the leaf's axes."""
        if self.part is not None:
            index, count = self.part
            if x.shape[self.axis] % count:
                raise ValueError(f"{count} parts of {x.shape}")
            x = np.split(x, count, self.axis)[index]
        return self.transform.load(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timm:
    """The architectures of timm that a layout reads.

    Attributes:
      names: pattern of `architecture` in its config.json.
      shown: the same for people.
      pool: timm's `global_pool` of these models.
      stated: hit of the pattern -> fields of a config.json that the name states.
    """

    names: str
    shown: str
    pool: str
    stated: Callable[[re.Match[str]], dict[str, Any]] = lambda hit: {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beside:
    """The text tower in the checkpoints of an image tower.

    Attributes:
      family: that reads it.
      pool: the image tower's option `pool` that leads to the space of both.
    """

    family: str
    pool: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """One family under one naming of its checkpoints.

    Attributes:
      name: the naming (`hf`, `torchvision`).
      family: name of the file in `jaxfer/models`.
      model_types: values of `model_type` in config.json that this reads; () for a naming without config.json.
      on_request: others that it reads where `config.model.name` is its family: checkpoints of several networks, which
        another layout reads otherwise.
      keys: port -> {leaf: checkpoint key}, for every leaf of the port.
      options: (config, preprocessor config or {}, {checkpoint key: shape}) -> options of the port, all but `outputs`.
      config: (port, its options, labels) -> config.json for export: architectures, id2label, ...
      preprocessor: port -> preprocessor_config.json for export; {} for text.
      entry: checkpoint key of the first leaf, without a prefix; its position reveals any wrapper's prefix.
      facts: TypedDict of the fields of config.json that `options` reads; None for no check.
      processor: the same of preprocessor_config.json.
      optional: regexes of checkpoint keys that may be absent (head, pooler): re-initialised where that is announced.
      fresh: regexes of leaves before the output layer, but of the head, that are made anew where a checkpoint has none.
      ignored: regexes of checkpoint keys without information (num_batches_tracked, position_ids).
      prefixes: prefixes that distinguish a full model's keys from a bare backbone's (`resnet.`), tried in order.
      tied: port -> {checkpoint key: key that the port reads in its place}; their tensors must be the same.
      constants: port -> {checkpoint key: value} that export adds without a leaf (num_batches_tracked); floats
        (sinusoids) must be these where a checkpoint has them.
      guessed: options that such a checkpoint does not state, unless a config.json names this layout as `key_layout`.
      bare: (shapes by key without prefix, options of the config) -> `Facts`, for a file without a config.json; None:
        it needs one.
      in_memory: (pattern, replacement) of names on the Hub, as `re.sub` takes them, that transformers 5 changes in
        memory, where peft takes the names of modules from.
      standardised: whether kernels of convolutions are standardised before they are applied: what an adapter of peft
        adds to the output is no change of such a kernel.
      transposed: pattern of modules, without a prefix, whose weight is [in, out] (transformers' `Conv1D`); None: none.
      timm: its names in timm; None if timm's checkpoints are not read by this layout.
      resized: (options that the checkpoint states, port) -> {leaf: function that adapts a tensor of another shape, in
        the leaf's axes}, where the config announces other inputs.
      encoder: port -> (config.json, constants) of the model without its head, whose keys lack the first prefix, as
        stored at the root of a sentence-transformers folder; None if not supported.
      beside: of an image tower, the text tower that its whole checkpoints have besides; None: none.
      prompts: methods (`prompt_tuning`, `prefix_tuning`) that read and write peft's files on it: outputs are compared.
      without_outputs: kinds of head without an output layer with which the model is exported.
    """

    name: str
    family: str
    model_types: tuple[str, ...]
    keys: Callable[[Port], Mapping[str, Key]]
    options: Callable[[Mapping[str, Any], Mapping[str, Any], Shapes], dict[str, Any]]
    config: Callable[[Port, Mapping[str, Any], Sequence[str]], dict[str, Any]]
    preprocessor: Callable[[Port], dict[str, Any]]
    entry: str = ""
    facts: type | None = None
    processor: type | None = None
    optional: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()
    tied: Callable[[Port], Mapping[str, str]] = lambda port: {}
    constants: Callable[[Port], Mapping[str, Array]] = lambda port: {}
    bare: Callable[[Shapes, Mapping[str, Any]], Facts] | None = None
    in_memory: tuple[tuple[str, Any], ...] = ()
    standardised: bool = False
    transposed: str | None = None
    timm: Timm | None = None
    resized: Callable[[Mapping[str, Any], Port], Mapping[str, Callable[[Array], Array]]] = lambda options, port: {}
    encoder: Callable[[Port], tuple[dict[str, Any], Mapping[str, Array]]] | None = None
    on_request: tuple[str, ...] = ()
    without_outputs: tuple[str, ...] = ()
    beside: Beside | None = None
    prompts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion:
    """A checkpoint converted to jaxfer's leaves.

    Attributes:
      params: nested params without those in `fresh`.
      model_state: nested running statistics, `{}` where the family has none.
      ledger: {leaf: {what, from, shape}} for every leaf of the port; `what` is loaded (same name), renamed, transposed
        (or reshaped), resized (surgery), re-initialised (asked for) or missing (optional, and not in the checkpoint);
        `from` the checkpoint's key or None; `shape` the leaf's.
      fresh: leaves that are re-initialised or missing, for the caller to initialise.
      unused: checkpoint keys without a leaf, all of them ignored, optional, reset or announced.
      unwrapped, dropped: as in `reading.Weights`.
    """

    params: dict[str, Any]
    model_state: dict[str, Any]
    ledger: dict[str, dict[str, Any]]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    unwrapped: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def convert(
    tensors: Mapping[str, Array],
    layout: Layout,
    port: Port,
    shapes: Mapping[str, Any],
    *,
    reset: Sequence[str] = (),
    surgery: Mapping[str, Callable[[Array], Array]] | None = None,
    unused: Sequence[str] = (),
    source: str = "the checkpoint",
    lazy: bool = False,
) -> Conversion:
    """Converts a checkpoint to the port's leaves; unannounced differences are errors.

    Args:
      tensors: {checkpoint key: tensor}, with or without one of the layout's prefixes.
      layout: the naming of those keys.
      port: the model to fill.
      shapes: {leaf: anything with a shape and a dtype}, for every leaf of the port.
      reset: regexes of leaves to re-initialise even if the checkpoint has them.
      surgery: {leaf: function that adapts a tensor (in the leaf's axes) of another shape}, e.g. for another resolution.
      unused: regexes of checkpoint keys, besides the layout's, that need no leaf.
      source: the checkpoint's name in errors.
      lazy: leaves tensors of another precision as `Stored`, instead of holding all of them in both.

    Raises:
      InputError: missing or unexpected keys, differing shapes, tensors that are not floats.
    """
    table = _table(layout, port, shapes)
    stored_keys = _named(tensors, table, layout.prefixes, source)
    anew = {leaf for leaf in table if _matches(leaf, reset)}
    absent = {leaf for leaf in table if table[leaf].name not in stored_keys} - anew
    lost = [table[leaf].name for leaf in table if leaf in absent and not _matches(table[leaf].name, layout.optional)]
    if lost:
        raise InputError(f"{source} lacks {_some(lost)} of layout {layout.name!r}{nearest(lost[0], tensors)}")
    leaves, ledger, unfit = {}, {}, []
    for leaf, key in table.items():
        want = tuple(shapes[leaf].shape)
        origin = None if leaf in absent else stored_keys.get(key.name)
        outcome = "missing" if leaf in absent else "re-initialised"
        if leaf not in absent | anew:
            value, outcome = _moved(tensors[origin], key, want, (surgery or {}).get(leaf))
            if value is None:
                unfit.append(f"{origin} {tuple(tensors[origin].shape)} for {leaf} {want}")
                continue
            if not jnp.issubdtype(value.dtype, jnp.floating):
                raise InputError(f"{source}: {origin} is {value.dtype}, expected floats; give unquantised weights")
            dtype = np.dtype(shapes[leaf].dtype)
            leaves[leaf] = Stored(value, dtype) if lazy and value.dtype != dtype else np.asarray(value, dtype)
            outcome = "loaded" if outcome == "renamed" and leaf == origin else outcome
        ledger[leaf] = {"what": outcome, "from": origin, "shape": list(want)}
    if unfit:
        raise InputError(f"{source} has another shape (theirs, ours): {_some(unfit)}; announce what differs")
    if not anew:  # a new head reads the word embedding, whatever theirs did
        _check_tied(tensors, layout, port, stored_keys, source)
    constant = _check_constants(tensors, layout, port, source)
    used = {entry["from"] for leaf, entry in ledger.items() if leaf in leaves}
    rest = tuple(key for key in tensors if key not in used)
    allowed = (*layout.ignored, *layout.optional, *unused)
    known = {stored_keys[key.name] for key in table.values() if key.name in stored_keys}
    known |= constant
    odd = [k for k in rest if k not in known and not any(_matches(n, allowed) for n in _names(k, layout.prefixes))]
    if odd:
        names = [key.name for key in table.values()]
        raise InputError(
            f"{source} holds {_some(odd)} that layout {layout.name!r} has no place for{nearest(odd[0], names)}"
        )
    tree = {"params": {}, **unflatten(leaves)}
    fresh = tuple(leaf for leaf in table if leaf not in leaves)
    return Conversion(params=tree.pop("params"), model_state=tree, ledger=ledger, fresh=fresh, unused=rest)


def store(params: Any, model_state: Any, layout: Layout, port: Port) -> dict[str, Array]:
    """Converts the port's leaves to checkpoint tensors: the bitwise inverse of `convert`, plus the layout's constants.

    Raises:
      InputError: leaves without a key in the layout (a method's unmerged leaves), or missing leaves.
    """
    leaves = flatten({"params": params, **model_state})
    stored: dict[str, Array] = {}
    parts: dict[tuple[str, int, int], dict[int, Array]] = {}
    for leaf, key in _table(layout, port, leaves).items():
        tensor = key.transform.store(np.asarray(leaves[leaf]))
        if key.part is None:
            stored[key.name] = np.array(tensor, order="C")
        else:
            parts.setdefault((key.name, key.axis, key.part[1]), {})[key.part[0]] = tensor
    whole = {
        name: np.concatenate([of[i] if i in of else np.zeros_like(of[min(of)]) for i in range(count)], axis)
        for (name, axis, count), of in parts.items()
    }
    return {**stored, **whole, **layout.constants(port)}


def _table(layout: Layout, port: Port, leaves: Mapping[str, Any]) -> dict[str, Key]:
    keys = layout.keys(port)
    if odd := sorted(set(leaves) ^ set(keys)):
        raise InputError(f"layout {layout.name!r} and the model differ in {_some(odd)}; merge what a method added")
    return {leaf: keys[leaf] for leaf in leaves}


def _check_tied(
    tensors: Mapping[str, Array], layout: Layout, port: Port, stored_keys: Mapping[str, str], source: str
) -> None:
    """`InputError` where a checkpoint has two tensors that are one in the port."""
    for key, other in layout.tied(port).items():
        name = next((name for name in _names(key, layout.prefixes) if name in tensors), None)
        same = stored_keys.get(other)
        if name is None or same is None or np.array_equal(tensors[name], tensors[same]):
            continue
        raise InputError(
            f"{source}: {name} and {same} differ, and the model ties them; set config.head=reset, or another task"
        )


def _check_constants(tensors: Mapping[str, Array], layout: Layout, port: Port, source: str) -> set[str]:
    """Keys of the checkpoint that hold constants of the port; `InputError` where they hold something else."""
    found = set()
    for key, value in layout.constants(port).items():
        name = next((name for name in _names(key, layout.prefixes) if name in tensors), None)
        if name is None or not jnp.issubdtype(value.dtype, jnp.floating):
            continue
        stored = np.asarray(tensors[name], np.float32)
        if stored.shape != value.shape or not np.allclose(stored, value, atol=2e-3):  # half precision has 1e-3
            raise InputError(
                f"{source}: {name} is no constant of this model, expected the values that it computes; give another "
                "checkpoint"
            )
        found.add(name)
    return found


def _moved(x: Array, key: Key, want: tuple[int, ...], change: Any) -> tuple[Array | None, str]:
    """(the tensor in the leaf's axes and shape, the kind of change); the tensor is None if it does not fit."""
    try:
        value = key.load(x)
    except (ValueError, IndexError):  # too few axes, or no multiple of the heads
        return None, ""
    if value.shape == want:
        return value, "renamed" if key.transform is IDENTITY and key.part is None else "transposed"
    value = change(value) if change is not None else value
    return (value, "resized") if value.shape == want else (None, "")


def _named(
    tensors: Mapping[str, Array], table: Mapping[str, Key], prefixes: Sequence[str], source: str
) -> dict[str, str]:
    """{key in the table: key in the checkpoint}."""
    names = {name: key.name for key in table.values() for name in (key.name, *key.others)}
    keys: dict[str, str] = {}
    for key in tensors:
        name = next((names[name] for name in _names(key, prefixes) if name in names), None)
        if name in keys:
            raise InputError(f"{source} has both {keys[name]!r} and {key!r}; expected one of them")
        if name is not None:
            keys[name] = key
    return keys


def _names(key: str, prefixes: Sequence[str]) -> list[str]:
    """Names of this key in the table: unchanged, with a prefix, or without one."""
    without = [key[len(prefix) :] for prefix in prefixes if key.startswith(prefix)]
    return [key, *(prefix + key for prefix in prefixes), *without]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

"""Other people's checkpoints: which layout reads one, what model it is, and how its weights enter that model.

Architecture and preprocessing come from the checkpoint's own files. Whatever the config says against them is refused
unless `config.differs` announces it; what it announces is made to fit (`surgery.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from jaxfer import schema
from jaxfer.data.text import _located, tokenizer_sha256
from jaxfer.errors import InputError, nearest
from jaxfer.fields import AUTO
from jaxfer.models.port import Port
from jaxfer.pretrained import bare, hub, reading, surgery
from jaxfer.pretrained.families import by_model_type, layouts
from jaxfer.pretrained.hub import Found
from jaxfer.pretrained.layout import Conversion, Layout, convert
from jaxfer.registry import MODELS
from jaxfer.rules import flatten

# Model options that only training sees: a run may set them as it likes.
TRAINING_OPTIONS = ("dropout", "attention_dropout", "classifier_dropout", "stochastic_depth", "norm_momentum")
# And what is no part of the weights' meaning: how long an input may be is a matter of cost.
FREE = (*TRAINING_OPTIONS, "max_length", "buckets")
SETTLED = 2e9  # nanoseconds: file systems stamp in steps of up to two seconds
UNNAMED = r"LABEL_\d+"  # transformers' names for classes that nobody named


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint of somebody else's, understood.

    Attributes:
      found: its files.
      layout: how it calls things.
      options: the port's options as its files tell them, all but `outputs`.
      soft: names of those that a config may set freely, because the files do not state them.
      labels: names of its classes in order; `()` where it has no head or nobody named them.
    """

    found: Found
    layout: Layout
    options: Mapping[str, Any]
    soft: frozenset[str]
    labels: tuple[str, ...]


def is_foreign(init: Any) -> bool:
    """Whether `config.init` names a checkpoint of somebody else's, not a run of ours or `scratch`."""
    return isinstance(init, str) and init != "scratch" and not init.startswith(("run:", "sibling:"))


def completed(config: ConfigDict) -> ConfigDict:
    """The config with `config.model` filled in from the checkpoint that `config.init` names.

    `config.model.name=auto` is also the model of the run in `run:FOLDER`. A tokenizer gets its sha256.

    Raises:
      InputError: no such checkpoint, one that is not read, or a model option that contradicts it and is not announced.
    """
    init, model = config.get("init"), config.get("model")
    if not isinstance(init, str) or not isinstance(model, ConfigDict):
        return config
    config = config.copy_and_resolve_references()
    given = dict(config.model.items())
    name = given.pop("name", None)
    if is_foreign(init):
        checkpoint = opened(init, name, given)
        name, given = checkpoint.layout.family, agreed(checkpoint, given, tuple(config.get("differs") or ()))
    elif name == AUTO and init.startswith("run:") and (stored := epath.Path(init[4:]) / "config.json").exists():
        theirs = reading.read_json(stored)["model"]
        name, given = theirs["name"], {**theirs, **given}
    if given.get("tokenizer") and not given.get("tokenizer_sha256"):  # its content is part of what the run is
        given["tokenizer_sha256"] = tokenizer_sha256(_located(given["tokenizer"]))
    with config.unlocked(), config.ignore_type():
        config.model = ConfigDict({**given, "name": name} if name is not None else given)
    return config


def opened(init: str, name: str, given: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint behind a Hub name (`name@revision` too), a folder or a file.

    Args:
      init: what `config.init` says.
      name: `config.model.name`: `auto`, or the family, which must be the checkpoint's.
      given: options of `config.model`: bare weights take from them what their shapes do not tell.

    Raises:
      InputError: no such checkpoint, an unknown architecture or another than `name`, or files that are damaged.
    """
    found, shapes = files(init)
    config = {**(found.config or {}), **_pooling(found)}
    candidates = _candidates(init, name, config)
    tried, errors = [], []
    for layout in candidates:
        try:
            options, soft = _options(layout, found, config, shapes, given)
            keys = layout.keys(MODELS.make(layout.family, outputs=1, **options, **_structure(layout, options, given)))
        except InputError as error:
            errors.append(f"{layout.name}: {error}" if len(candidates) > 1 else str(error))
            continue
        lacking = {key.name for key in keys.values()} - _all_names(shapes, layout.prefixes)
        tried.append((len(lacking), layout, options, soft))
    if not tried:
        raise InputError(f"config.init={init}: {'; '.join(errors)}")
    _, layout, options, soft = min(tried, key=lambda entry: entry[0])
    if found.tokenizer and "tokenizer" in MODELS.schema(layout.family):
        folder = found.tokenizer[0].parent
        options |= {"tokenizer": str(folder), "tokenizer_sha256": tokenizer_sha256(folder)}
    return Checkpoint(found=found, layout=layout, options=options, soft=frozenset(soft), labels=_labels(config))


def agreed(checkpoint: Checkpoint, given: Mapping[str, Any], differs: Sequence[str]) -> dict[str, Any]:
    """The checkpoint's options with those given in their place: training's, announced ones, and such as it leaves open.

    Raises:
      InputError: an option that there isn't, or one that contradicts the checkpoint.
    """
    family, init = checkpoint.layout.family, checkpoint.found.init
    known = MODELS.schema(family)
    for name in differs:
        if name not in known:
            raise InputError(f"config.differs: model {family!r} has no option {name!r}{nearest(name, known)}")
    for name in given:
        if name not in known:
            raise InputError(f"unknown field config.model.{name}{nearest(name, known)}")
    ours = {name: schema.check(value, known[name][0], f"config.model.{name}") for name, value in given.items()}
    options, contradicting = dict(checkpoint.options), []
    if "image" in ours and ("image" in differs or "image" in checkpoint.soft):
        options |= _statistics(options, ours["image"][2]) | _resize(options, ours["image"][:2])
    for name, value in ours.items():
        there = options.get(name)
        if name in differs or name in FREE or name in checkpoint.soft or name not in options:
            options[name] = value
        elif not _same(name, value, there, checkpoint):
            contradicting.append(f"{name} is {there!r} there, {value!r} here")
    if contradicting:
        raise InputError(
            f"config.init={init}: the checkpoint's model is another ({'; '.join(contradicting)}); take them out of "
            "config.model, or announce what may differ in config.differs"
        )
    return options


def carry(
    checkpoint: Checkpoint, port: Port, shapes: Mapping[str, Any], *, reset: Sequence[str], differs: Sequence[str]
) -> Conversion:
    """The checkpoint's weights in the port's leaves, `shapes`, made to fit where that is announced.

    Args:
      checkpoint: where they come from.
      port: the model.
      shapes: {leaf: shape} of the port.
      reset: leaves that are made anew whatever the checkpoint has.
      differs: what `config.differs` announces.

    Raises:
      InputError: whatever does not fit and was not announced.
    """
    tensors = reading.read(checkpoint.found.weights)
    stem = port.units[0]
    changes: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {}
    if "image" in differs:
        channels = port.preprocessing.size[2]
        for conv in ("conv", "patch"):
            changes[f"params/{stem}/{conv}/kernel"] = ("inflated", lambda x: surgery.inflate_input(x, channels))
        if f"params/{stem}/pos" in shapes:
            changes[f"params/{stem}/pos"] = ("resized", _resizing(checkpoint, port, shapes[f"params/{stem}/pos"].shape))
    found = convert(
        tensors,
        checkpoint.layout,
        port,
        shapes,
        reset=[re.escape(leaf) for leaf in reset],
        surgery={leaf: change for leaf, (_, change) in changes.items()},
        source=f"config.init={checkpoint.found.init}",
    )
    for leaf, entry in found.ledger.items():
        if entry["what"] == "resized":
            entry["what"] = changes[leaf][0]
    return found


def fresh_leaves(port: Port, leaves: Sequence[str], key: jax.Array, shapes: Any) -> dict[str, jax.Array]:
    """{leaf: fresh value} of those leaves alone, as `port.init` draws them; nothing else is computed or kept."""
    if not leaves:
        return {}
    zeros = jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), shapes)
    return _compiled_fresh(port, tuple(leaves))(key, zeros)


@functools.lru_cache(maxsize=64)
def _compiled_fresh(port: Port, leaves: tuple[str, ...]) -> Any:
    def draw(key, batch):
        params, model_state = port.init(key, batch)
        everything = flatten({"params": params, **model_state})
        return {leaf: everything[leaf] for leaf in leaves}

    return jax.jit(draw)


def keeps_head(head: str, checkpoint: Checkpoint, classes: Sequence[str]) -> bool:
    """Whether the checkpoint's head stays: it is asked for, or its classes are the data's, by name and order.

    Raises:
      InputError: the same classes in another order, which is no reason to lose the head and none to keep it.
    """
    if head != "auto":
        return head == "keep"
    theirs = checkpoint.labels
    if theirs and theirs != tuple(classes) and set(theirs) == set(classes):
        raise InputError(
            f"config.head=auto: the checkpoint has the data's classes in another order ({', '.join(theirs)}); set "
            "config.data.classes to its order, or config.head=reset"
        )
    return bool(theirs) and theirs == tuple(classes)


def files(init: str) -> tuple[Found, dict[str, tuple[int, ...]]]:
    """(the files, {their key: shape}), kept until they change; of the Hub, as long as this process lives."""
    path, revision = epath.Path(init).expanduser(), None
    beside = epath.Path(os.environ.get("JAXFER_DATA") or ".") / init  # where relative data paths are looked up too
    if not path.exists() and beside.exists():
        path, init = beside, str(beside)
    if not path.exists():
        name, _, tail = init.partition("@")
        if tail and re.fullmatch(hub.HUB_NAME, name):
            init, revision = name, tail
        elif ":" in init and "://" not in init:
            raise InputError(
                f"config.init: expected scratch, run:FOLDER or sibling:NAME, found {init!r}; a checkpoint goes by its "
                "name on the Hub, its folder or its file"
            )
        return _kept(init, revision, ())
    entries = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(str(entry), entry.stat()) for entry in entries]
    stamps = tuple((name, stat.length, stat.mtime) for name, stat in stats)
    young = any(time.time() - stat.mtime < SETTLED / 1e9 for _, stat in stats)
    return (_kept.__wrapped__ if young else _kept)(init, revision, stamps)


@functools.lru_cache(maxsize=8)
def _kept(init: str, revision: str | None, stamps: tuple[Any, ...]) -> tuple[Found, dict[str, tuple[int, ...]]]:
    found = hub.find(init, revision=revision)
    return found, {key: tuple(tensor.shape) for key, tensor in reading.read(found.weights).items()}


def _candidates(init: str, name: str, config: Mapping[str, Any]) -> tuple[Layout, ...]:
    """The layouts that may read it: of the family that its config.json or, where there is none, `name` says."""
    kind, families = config.get("model_type"), sorted({layout.family for layout in layouts()})
    if kind is not None:
        family = by_model_type(kind).family
        if name not in (AUTO, family):
            raise InputError(
                f"config.model.name is {name!r} here, config.json of {init} says {family!r}; "
                "set config.model=dict(name='auto')"
            )
        return tuple(layout for layout in layouts() if kind in layout.model_types)
    family = config.get("family") if name == AUTO else name
    if family not in families:
        found = "no config.json that says what it is" if name == AUTO else f"config.model.name={name!r}"
        raise InputError(f"config.init={init}: {found}; set config.model.name to one of {', '.join(families)}")
    return tuple(layout for layout in layouts() if layout.family == family)


def _options(
    layout: Layout, found: Found, config: Mapping[str, Any], shapes: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], set[str]]:
    """(the port's options, those that the files leave open)."""
    known, soft = MODELS.schema(layout.family), set()
    if layout.model_types and "model_type" not in config:
        config, open_ = bare.facts(layout, shapes, given)
        soft |= set(open_)
    elif not found.preprocessor and "image_size" not in config and "size" not in config.get("input", {}):
        soft.add("image")
    options = layout.options(config, found.preprocessor or {}, shapes)
    return {name: schema.check(value, known[name][0], f"{found.init}: {name}") for name, value in options.items()}, soft


def _structure(layout: Layout, options: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the config adds to the checkpoint's options and which names of leaves may depend on (a pooler)."""
    known = MODELS.schema(layout.family)
    return {
        name: schema.check(value, known[name][0], f"config.model.{name}")
        for name, value in given.items()
        if name in known and name not in options and name not in ("mean", "std")
    }


def _pooling(found: Found) -> dict[str, Any]:
    """What sentence-transformers says of the pooling, which lies in a folder of its own."""
    path = found.weights.parent / "1_Pooling" / "config.json"
    stated = reading.read_json(path) if found.config is not None and path.exists() else {}
    return {name: value for name, value in stated.items() if name.startswith("pooling_mode_")}


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    names = config.get("id2label")
    try:
        labels = tuple(str(names[key]) for key in sorted(names, key=int)) if names else ()
    except (TypeError, ValueError):
        raise InputError(f"config.json: expected id2label to map numbers to names, found {names!r}") from None
    return () if all(re.fullmatch(UNNAMED, label) for label in labels) else labels


def _all_names(shapes: Mapping[str, Any], prefixes: Sequence[str]) -> set[str]:
    """Every name that a key table may use for these keys."""
    bare_names = {key.removeprefix(prefix) for key in shapes for prefix in (*prefixes, "")}
    return bare_names | {prefix + key for key in bare_names for prefix in prefixes}


def _same(name: str, ours: Any, theirs: Any, checkpoint: Checkpoint) -> bool:
    if name in ("mean", "std"):  # one value stands for all channels
        longest = max(len(ours), len(theirs), 1)
        return ours * (longest if len(ours) == 1 else 1) == theirs * (longest if len(theirs) == 1 else 1)
    if name == "tokenizer":  # known by its content
        return not ours or tokenizer_sha256(_located(ours)) == checkpoint.options["tokenizer_sha256"]
    return ours == theirs or (name == "tokenizer_sha256" and not ours)


def _statistics(options: Mapping[str, Any], channels: int) -> dict[str, tuple[float, ...]]:
    """`mean` and `std` for so many channels: their own mean for one, in turn for more, as kernels are inflated."""
    found = {name: options[name] for name in ("mean", "std") if len(options.get(name, ())) not in (0, 1, channels)}
    if channels == 1:
        return {name: (float(np.mean(values)),) for name, values in found.items()}
    return {name: tuple(values[i % len(values)] for i in range(channels)) for name, values in found.items()}


def _resize(options: Mapping[str, Any], size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """`resize` for another image size: the same share of the image is cut out."""
    before, found = options.get("image", (0, 0))[:2], options.get("resize", ())
    if not found or tuple(before) == tuple(size):
        return {}
    shares = (
        (min(size) / min(before),)
        if len(found) == 1
        else tuple(new / old for new, old in zip(size, before, strict=True))
    )
    return {"resize": tuple(round(side * share) for side, share in zip(found, shares, strict=True))}


def _resizing(checkpoint: Checkpoint, port: Port, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    patch, image = checkpoint.options["patch"], checkpoint.options.get("image")
    new = tuple(side // port.module.patch for side in port.preprocessing.size[:2])
    old = None if image is None or "image" in checkpoint.soft else tuple(side // patch for side in image[:2])
    return lambda x: surgery.resize_positions(x, old, new, extra=shape[1] - new[0] * new[1])

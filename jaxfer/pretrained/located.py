"""The files of a third-party checkpoint and the tensors in them; `foreign.py` recognises the model."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import time
from collections.abc import Sequence
from typing import Any

from etils import epath

from jaxfer import files
from jaxfer.config.experiment import InitOptions
from jaxfer.errors import InputError, nearest
from jaxfer.pretrained import adapter, hub, peft_prompts, sentence, timm
from jaxfer.pretrained.families import layouts
from jaxfer.pretrained.formats import containers, reading
from jaxfer.pretrained.hub import CheckpointFiles
from jaxfer.pretrained.layout import Layout

USUAL = InitOptions()
SETTLED = 2e9  # nanoseconds: file timestamps have a resolution of up to two seconds
AVERAGES = r"(?i)(^|.*[_.-])(ema|swa|averaged?_model)([_.-].*|$)"  # keys that hold averaged weights


def located_files(
    init: str, options: InitOptions = USUAL
) -> tuple[CheckpointFiles, dict[str, tuple[int, ...]], frozenset[str], tuple[str, ...]]:
    """(files, {key: shape}, keys stored outside the weights file, names of averaged weights in the same file).

    Cached until the files change; Hub checkpoints are cached for the life of the process.
    """
    where, young = _located(init)
    return (_kept.__wrapped__ if young else _kept)(*where, options, young)


def sha256(init: str) -> str:
    """The current sha256 of a checkpoint's weights; raises `Absent` if they are gone."""
    where, young = _located(init)
    return (_find.__wrapped__ if young else _find)(*where).sha256


def weights(source: CheckpointFiles) -> reading.Weights:
    """Reads all tensors of a checkpoint: its weights file, plus a merged adapter, dense layer or separate head.

    Raises:
      InputError: files that are damaged, or an adapter that is not understood.
    """
    network = _network(source)
    parts, fused = timm.parted(network)
    network = dataclasses.replace(network, tensors=parts, moved={**network.moved, **fused}) if fused else network
    if source.adapter is not None:
        join = adapter.merged if peft_prompts.method(source) is None else peft_prompts.headed
        network = join(source, network)
    if source.tail.weights is not None:
        layer, places = sentence.dense_weights(source.tail.weights)
        network = dataclasses.replace(network, tensors={**network, **layer}, moved={**network.moved, **places})
    if source.dense is None:
        return network
    keys, dense = sentence.DENSE_KEYS, reading.read(source.dense)
    if set(dense) != set(keys):
        raise InputError(f"{source.dense}: expected {', '.join(keys)}, found {', '.join(dense)}; export again")
    head = {name: dense[key] for key, name in keys.items()}
    places = {name: f"{epath.Path(sentence.DENSE).parent.name}.{key}" for key, name in keys.items()}
    return dataclasses.replace(network, tensors={**network, **head}, moved={**network.moved, **places})


def _located(init: str) -> tuple[tuple[str, str | None, tuple[Any, ...]], bool]:
    """((name, revision, file stamps), whether the stamps are too recent to reveal a change)."""
    path, revision = hub.located(init), None
    beside = (
        files.opened(os.environ.get("JAXFER_DATA") or ".") / init
    )  # relative data paths are also resolved against it
    if not path.exists() and beside.exists():
        path, init = beside, str(beside)
    if not path.exists():
        name, _, tail = init.partition("@")
        if tail and re.fullmatch(hub.HUB_NAME, name):
            init, revision = name, tail
        elif ":" in init and "://" not in init:
            raise InputError(
                f"config.init: expected scratch, run:FOLDER or sibling:NAME, found {init!r}; give a checkpoint as its "
                "name on the Hub, its folder or its file"
            )
        return (init, revision, ()), False
    stats = [(str(entry), entry.stat()) for entry in _entries(path)]
    stamps = tuple((name, stat.length, stat.mtime) for name, stat in stats)
    young = any(time.time() - stat.mtime < SETTLED / 1e9 for _, stat in stats)
    return (init, revision, stamps), young


def _entries(path: epath.Path) -> list[epath.Path]:
    """Files that a checkpoint may be read from: its folder, sentence-transformers' layers, an adapter's base."""
    if not path.is_dir():
        return [path]
    inner = sentence.encoder(path)
    entries = [*path.iterdir(), *(inner.iterdir() if inner and inner.is_dir() else ()), *sentence.files(path)]
    entries = sorted(set(entries))
    if (config := path / hub.ADAPTER_CONFIG).exists():
        base = hub.located(hub.base_of(path, reading.read_json(config, hub.AdapterConfig))[0])
        entries += (sorted(base.iterdir()) if base.is_dir() else [base]) if base.exists() else []
    return entries


@functools.lru_cache(maxsize=8)
def _find(init: str, revision: str | None, stamps: tuple[Any, ...]) -> CheckpointFiles:
    return hub.find(init, revision=revision)


@functools.lru_cache(maxsize=8)
def _kept(
    init: str, revision: str | None, stamps: tuple[Any, ...], options: InitOptions, young: bool
) -> tuple[CheckpointFiles, dict[str, tuple[int, ...]], frozenset[str], tuple[str, ...]]:
    source = (_find.__wrapped__ if young else _find)(init, revision, stamps)
    source = dataclasses.replace(source, options=options)
    tensors = weights(source)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    averages = tuple(name for name in tensors.dropped if re.fullmatch(AVERAGES, name))
    return source, shapes, frozenset(tensors.moved), averages


def _network(source: CheckpointFiles) -> reading.Weights:
    """Tensors of the weights file, without the prefix of the training script's wrapper."""
    network, prefix = reading.read(source.weights, pick=source.options.pick), source.options.prefix
    if not prefix:
        return reading.without(network, containers.prefix_of(network, entry_keys(layouts())))
    off = "".join(part for part in network.unwrapped if part.endswith("."))  # the user may include these in the prefix
    prefix = prefix.removesuffix(".").removeprefix(off) + "."
    if not any(key.startswith(prefix) for key in network):
        tail = nearest(prefix, {key[: key.rindex(".") + 1] for key in network if "." in key})
        raise InputError(f"{source.init}: no key begins with config.init_options.prefix={prefix!r}{tail}")
    return reading.without(network, prefix)


def entry_keys(known: Sequence[Layout]) -> dict[str, tuple[str, ...]]:
    """{a key that every checkpoint of a layout has: that layout's prefixes}."""
    return {layout.entry: layout.prefixes for layout in known if layout.entry}

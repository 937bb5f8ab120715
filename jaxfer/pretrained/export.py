"""Carry a run's result out: a folder that other people's tools load, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath

from jaxfer import rundir
from jaxfer.errors import InputError, nearest
from jaxfer.finished import FinishedRun, open_run
from jaxfer.models.port import Port, Preprocessing
from jaxfer.pretrained import adapter, card, foreign, tokenizer
from jaxfer.pretrained.families import by_family, layouts
from jaxfer.pretrained.layout import Layout, store
from jaxfer.registry import MODELS

MARKER = "jaxfer.json"  # what makes a folder an export: it may be replaced
PEFT = "peft"
PROBLEMS = {"classification": "single_label_classification", "multilabel": "multi_label_classification"}


def export(run: str | epath.Path, *, format: str = "hf", out: str | epath.Path | None = None) -> epath.Path:
    """Writes a finished run's model as a folder for `transformers` or `peft`, or under another layout's names.

    The weights are those that result.json describes, merged where a method added to them (LoRA); what training left
    alone is bitwise the source's.

    Args:
      run: its folder.
      format: `hf`, another layout of the family (`torchvision`), or `peft`: the adapter of a LoRA run alone.
      out: the folder to write; None: `export-FORMAT` in the run's. An export that is there is replaced.

    Returns:
      The folder.

    Raises:
      InputError: no finished run, a model that the format can't express, or a folder that holds something else.
    """
    finished = open_run(run)
    target = epath.Path(os.path.expanduser(out) if out else finished.folder / f"export-{format}")
    family = finished.experiment.model.name
    known = [layout.name for layout in layouts() if layout.family == family]
    if format not in (PEFT, *known):
        raise InputError(f"--format={format}: model {family!r} can't be exported so{nearest(format, (PEFT, *known))}")
    _check_target(target)
    port = tokenizer.at_home(finished.stage.spec.port, finished.folder)
    temporary = target.parent / f".{target.name}.{os.getpid()}.tmp"
    if temporary.exists():
        temporary.rmtree()
    temporary.mkdir(parents=True)
    try:
        if format == PEFT:
            adapter.write(finished, port, temporary)
        else:
            _write_model(finished, port, by_family(family, format), temporary)
        rundir.write_text(temporary / "README.md", card.card(finished, format))
        lineage = finished.result["lineage"]
        marker = {"format": format, "run": str(finished.folder), "task": finished.experiment.task.name}
        rundir.write_json(temporary / MARKER, {**marker, "lineage": lineage, "versions": finished.result["versions"]})
        _move(temporary, target)
    finally:
        if temporary.exists():
            temporary.rmtree()
    return target


def write_tensors(path: epath.Path, tensors: Mapping[str, Any]) -> None:
    """A safetensors file as transformers and peft expect it."""
    arrays = {name: np.array(value, order="C") for name, value in tensors.items()}  # which keeps a scalar one
    path.write_bytes(safetensors.numpy.save(arrays, metadata={"format": "pt"}))


def _write_model(finished: FinishedRun, port: Port, layout: Layout, folder: epath.Path) -> None:
    experiment = finished.experiment
    params, model_state = finished.stage.leave(finished.state)
    config = layout.config(port, dict(experiment.model.options), finished.classes)
    if experiment.task.name in PROBLEMS:
        config["problem_type"] = PROBLEMS[experiment.task.name]
    tensors = store(params, model_state, layout, port)
    write_tensors(folder / "model.safetensors", {name: np.asarray(value) for name, value in tensors.items()})
    rundir.write_json(folder / "config.json", config)
    preprocessor = layout.preprocessor(port)
    if preprocessor:
        rundir.write_json(folder / "preprocessor_config.json", preprocessor)
    tokenizer.keep(port, folder)
    _check_meaning(finished, layout, folder)


def _check_meaning(finished: FinishedRun, layout: Layout, folder: epath.Path) -> None:
    """`InputError` where the folder, read again, would be another model: the format has no word for an option."""
    family, ours = layout.family, dict(finished.experiment.model.options)
    theirs = foreign.opened(str(folder), family, {} if layout.model_types else ours).options
    free = {name: ours[name] for name in foreign.FREE if name in ours}
    here = finished.stage.spec.port
    there = MODELS.make(family, outputs=here.outputs, **{**theirs, **free})
    facts = [{**vars(port.module), **vars(port.preprocessing), **_per_channel(port)} for port in (here, there)]
    skip = ("parent", "name", "scope", "tokenizer", "tokenizer_sha256")
    lost = [f"{k}={v!r}" for k, v in facts[0].items() if k not in skip and not k.startswith("_") and facts[1][k] != v]
    if lost:
        raise InputError(f"--format={layout.name} has no word for {', '.join(lost)}; the export would be another model")


def _per_channel(port: Port) -> dict[str, Any]:
    """The image's statistics with one value a channel."""
    spec = port.preprocessing
    if not isinstance(spec, Preprocessing):
        return {}
    return {name: np.broadcast_to(getattr(spec, name), spec.size[2]).tolist() for name in ("mean", "std")}


def _check_target(target: epath.Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"--out={target}: expected a folder to write, found a file; name another")
    if any(target.iterdir()) and not (target / MARKER).exists():
        raise InputError(f"--out={target}: a folder that is no export and not empty; name another, or empty it")


def _move(folder: epath.Path, target: epath.Path) -> None:
    """In its place, the former export aside until it is there."""
    former = target.parent / f".{target.name}.{os.getpid()}.old"
    if target.exists():
        target.rename(former)
    try:
        folder.rename(target)
    except BaseException:
        if former.exists():
            former.rename(target)
        raise
    if former.exists():
        former.rmtree()


def read_marker(folder: epath.Path) -> dict[str, Any]:
    """What an export says of itself; {} for another folder."""
    path = folder / MARKER
    return json.loads(path.read_text()) if path.exists() else {}


def label_names(labels: Sequence[str], outputs: int) -> tuple[str, ...]:
    """A name for each output."""
    return tuple(labels) or tuple(f"LABEL_{i}" for i in range(outputs))

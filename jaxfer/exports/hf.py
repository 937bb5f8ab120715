"""Export a run's model atomically to a folder that other libraries can load."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxfer import files
from jaxfer.errors import InputError, nearest
from jaxfer.exports import as_lora as lora
from jaxfer.exports import card, peft, sentence, staging, tensors
from jaxfer.models.port import Port
from jaxfer.pretrained import foreign
from jaxfer.pretrained.families import by_family, layouts
from jaxfer.pretrained.heads import PROBLEMS
from jaxfer.pretrained.hub import ADAPTER_CONFIG, MARKER, SENTENCE
from jaxfer.pretrained.layout import Layout, store
from jaxfer.registry import MODELS
from jaxfer.runs import tokenizer
from jaxfer.runs.finished import FinishedRun, open_run

PEFT = "peft"


def export(
    run: str | epath.Path, *, format: str = "hf", out: str | epath.Path | None = None, as_lora: int | None = None
) -> epath.Path:
    """Writes a finished run's model as a folder for `transformers`, `peft` or `sentence-transformers`, or under another
    layout's names.

    The weights are those that result.json describes, with a method's additions (LoRA) merged. Leaves that training did
    not change equal the source's bitwise.

    Args:
      run: the run's folder; with `as_lora` also that of a `peft` adapter.
      format: `hf`, another layout of the family (`torchvision`), `sentence-transformers` for a model that pools its
        tokens, or `peft` for only the adapter of a run whose method peft has.
      out: the folder to write; None for `export-FORMAT` in the run's folder. An existing export is replaced.
      as_lora: with `peft`, the rank of LoRA adapters that stand for what any method that merges, or an adapter of
        another kind, did to its layers; jaxfer.json has the relative error of each.

    Returns:
      The folder.

    Raises:
      InputError: no finished run, a model that the format can't express, or an `out` folder with other content.
    """
    if as_lora is not None and (format != PEFT or as_lora < 1):
        raise InputError(f"--as=lora needs --format=peft and a rank of 1 or more, found {format} and {as_lora}")
    folder = files.opened(run)
    target = files.opened(os.path.expanduser(out) if out else folder / f"export-{format}")
    if as_lora is not None and (folder / ADAPTER_CONFIG).exists():
        return _converted(folder, target, as_lora)
    finished = open_run(run)
    family = finished.experiment.model.name
    family_layouts = [layout for layout in layouts() if layout.family == family]
    known = [
        PEFT,
        *([SENTENCE] if any(layout.encoder for layout in family_layouts) else []),
        *(layout.name for layout in family_layouts),
    ]
    if format not in known:
        raise InputError(
            f"--format={format}: model {family!r} can't be exported in this format{nearest(str(format), known)}"
        )
    if finished.stage.spec.port.neck is not None:
        raise InputError(f"--format={format} has no place for config.model.neck; predict with the run: jaxfer predict")
    layout, port = by_family(family, "hf" if format in (PEFT, SENTENCE) else format), finished.stage.spec.port
    bare = format == layout.name and port.module.head in layout.without_outputs
    if not port.outputs and format != SENTENCE and not bare:
        raise InputError(f"--format={format} has no place for a model without an output layer; use --format={SENTENCE}")
    _check_target(target)
    with staging.unwound_by_sigterm(), staging.staged(target) as temporary:
        marker = _marker(finished, format)
        if as_lora:
            marker["as_lora"] = {"rank": as_lora, "error": lora.of_run(finished, layout, temporary, rank=as_lora)}
        else:
            write = {PEFT: peft.write, SENTENCE: sentence.write}.get(format, _write_model)
            write(finished, layout, temporary)
        if preprocessor := layout.preprocessor(port):
            files.write_json(temporary / "preprocessor_config.json", preprocessor)
        tokenizer.carry_out(port, temporary)
        files.write_text(temporary / "README.md", card.card(finished, format))
        files.write_json(temporary / MARKER, marker)
        _check_meaning(finished, layout, format, temporary)
    return target


def _converted(source: epath.Path, target: epath.Path, rank: int) -> epath.Path:
    """A `peft` adapter's folder as LoRA."""
    _check_target(target)
    with staging.unwound_by_sigterm(), staging.staged(target) as temporary:
        errors, marker = lora.of_adapter(str(source), temporary, rank=rank)
        files.write_json(temporary / MARKER, {**marker, "format": PEFT, "as_lora": {"rank": rank, "error": errors}})
    return target


def _write_model(finished: FinishedRun, layout: Layout, folder: epath.Path) -> None:
    experiment, port = finished.experiment, finished.stage.spec.port
    config = layout.config(port, dict(experiment.model.options), finished.classes)
    if experiment.task.name in PROBLEMS:
        config["problem_type"] = PROBLEMS[experiment.task.name]
    leaves = store(*finished.stage.leave(finished.state), layout, port)
    tensors.write(folder / "model.safetensors", leaves)
    files.write_json(folder / "config.json", config)


def _marker(finished: FinishedRun, format: str) -> dict[str, Any]:
    """jaxfer.json, which marks a folder as an export and stores what some formats cannot express."""
    task, encoding = finished.experiment.task.name, finished.stage.spec.port.encoding
    return {
        "format": format,
        "run": str(finished.folder),
        "task": task,
        "problem_type": PROBLEMS.get(task),
        "labels": list(finished.classes),
        **encoding.facts(),
        "lineage": finished.result["lineage"],
        "versions": finished.result["versions"],
    }


def _check_meaning(finished: FinishedRun, layout: Layout, format: str, folder: epath.Path) -> None:
    """Raises `InputError` if the exported folder reads back as another model because the format lacks an option."""
    family, options = layout.family, dict(finished.experiment.model.options)
    exported_options = foreign.opened(str(folder), family, {} if layout.model_types else options).options
    free = {name: options[name] for name in MODELS.training(family) if name in options}
    trained = finished.stage.spec.port
    kind = {} if trained.outputs else {"head": trained.module.head}
    exported = MODELS.make(family, outputs=trained.outputs, **kind, **{**exported_options, **free})
    facts = [{**port.options.network, **vars(port.encoding), **_per_channel(port)} for port in (trained, exported)]
    skip = ("tokenizer", "tokenizer_sha256", "apart", "words", "again")
    lost = [f"{k}={v!r}" for k, v in facts[0].items() if k not in skip and facts[1][k] != v]
    if lost:
        raise InputError(f"--format={format} can't express {', '.join(lost)}; the export would be a different model")


def _per_channel(port: Port) -> dict[str, Any]:
    """The image's statistics with one value per channel."""
    spec = port.encoding
    if not hasattr(spec, "mean"):
        return {}
    return {name: np.broadcast_to(getattr(spec, name), spec.size[2]).tolist() for name in ("mean", "std")}


def _check_target(target: epath.Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"--out={target}: expected a folder to write, found a file; name another")
    if any(target.iterdir()) and not (target / MARKER).exists():
        raise InputError(f"--out={target}: a folder of other files, not an export; name another, or empty it")


def label_names(labels: Sequence[str], outputs: int) -> tuple[str, ...]:
    """A name for each output."""
    return tuple(labels) or tuple(f"LABEL_{i}" for i in range(outputs))

"""Start a run from a pretrained checkpoint and record the origin of every leaf; `checkpoint.py` resumes runs."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxfer import files
from jaxfer.config.experiment import Experiment
from jaxfer.data.encoding import stated
from jaxfer.data.split import Dataset
from jaxfer.errors import InputError, nearest
from jaxfer.models import neck as necks
from jaxfer.models import parts
from jaxfer.models.heads import EMBEDDING, POOLED, WORDS
from jaxfer.models.port import Port
from jaxfer.ports import compiled_port_init, port_shapes
from jaxfer.pretrained import carrying, columns, foreign, located, peft_prompts, prompts, source_head, stream_heads
from jaxfer.pretrained.agreement import completed
from jaxfer.pretrained.foreign import is_foreign
from jaxfer.pretrained.hub import Absent
from jaxfer.pretrained.ledger import Start
from jaxfer.pretrained.trained_heads import trained_heads
from jaxfer.registry import MODELS
from jaxfer.rules import flatten, unflatten
from jaxfer.runs import records
from jaxfer.runs.finished import FinishedRun, fingerprint, open_run
from jaxfer.stages import Stage, example_batch

__all__ = ["Start", "completed", "identity", "is_foreign", "locate", "source_folder", "source_sha256", "start"]


def start(experiment: Experiment, data: Dataset, stage: Stage, folder: epath.Path) -> Start:
    """Initialises or loads parameters according to `config.init`, `config.head` and `config.differs`.

    Args:
      experiment: the complete config.
      data: its classes decide whether the source's head is kept.
      stage: the run's first stage.
      folder: the run's folder; `sibling:NAME` is next to it.

    Raises:
      InputError: an unknown source, an unfinished run, or a model or leaves that differ and were not announced.
    """
    bare = dataclasses.replace(stage, spec=dataclasses.replace(stage.spec, port=stage.spec.port.with_parts(())))
    begun = _start(experiment, data, bare, folder)
    if stage.given.former is not None and experiment.run.init != "scratch":
        sha256 = None if begun.former is None else fingerprint(begun.former)
        former = {"method": stage.config.method, "sha256": sha256}
        begun = dataclasses.replace(begun, lineage={**begun.lineage, "former": former})
    return stream_heads.added(begun, stage.spec, data, _key(experiment)) if stage.spec.port.parts else begun


def _start(experiment: Experiment, data: Dataset, stage: Stage, folder: epath.Path) -> Start:
    init = experiment.run.init
    if init == "scratch":
        return _scratch(experiment, data, stage)
    if is_foreign(init):
        return _from_checkpoint(experiment, data, stage)
    return _from_run(experiment, data, stage, source_folder(init, folder))


def source_sha256(init: str, folder: epath.Path) -> str | None:
    """The current sha256 of the weights that `config.init` names; None for scratch or a missing source."""
    if init == "scratch":
        return None
    if is_foreign(init):
        try:
            return located.sha256(init)
        except Absent:
            return None
    result = locate(init, folder) / "result.json"
    return files.read_json(result, records.Source)["lineage"]["sha256"] if result.exists() else None


def source_folder(init: str, folder: epath.Path, where: str = "config.init") -> epath.Path:
    """The run folder that `run:FOLDER` or `sibling:NAME` names; raises `InputError` if no run exists."""
    source = locate(init, folder)
    if not (source / "config.json").exists():
        raise InputError(f"{where}={init}: no run at {source}; train it first with `jaxfer run`")
    return source


def locate(init: str, folder: epath.Path) -> epath.Path:
    """The folder that `run:FOLDER` or `sibling:NAME` refers to, existing or not."""
    kind, _, name = init.partition(":")
    if not name:
        raise InputError(f"config.init: expected run:FOLDER or sibling:NAME, found {init!r}")
    return files.opened(name) if kind == "run" else folder.parent / name


def identity(init: str, folder: epath.Path) -> str:
    """Equal for two spellings of one source: a path that exists, without links; else `config.init` as it is.

    Args:
      init: the value of `config.init`.
      folder: the run's folder.
    """
    path = init
    if init == "scratch":
        return init
    if not is_foreign(init):
        path = str(locate(init, folder))
    elif not os.path.exists(init):  # relative data paths are also resolved against it
        path = os.path.join(os.environ.get("JAXFER_DATA") or ".", init)
    return os.path.realpath(path) if "://" not in path and os.path.exists(path) else init


def _lineage(experiment: Experiment, data: Dataset) -> dict[str, Any]:
    return {"init": experiment.run.init, "data_sha256": data.fingerprint}


def fresh_key(seed: int) -> jax.Array:
    """Draws the parameters that no source has."""
    return jax.random.fold_in(jax.random.key(seed), 0)


def _key(experiment: Experiment) -> jax.Array:
    return fresh_key(experiment.run.seed)


def _scratch(experiment: Experiment, data: Dataset, stage: Stage) -> Start:
    port = stage.spec.port
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), port.example(2))
    params, model_state = compiled_port_init(port)(_key(experiment), zeros)
    ledger = {leaf: _entry("initialised", None, x) for leaf, x in _leaves(params, model_state).items()}
    return Start(params=params, model_state=model_state, ledger=ledger, lineage=_lineage(experiment, data))


def _from_checkpoint(experiment: Experiment, data: Dataset, stage: Stage) -> Start:
    """Loads a third-party checkpoint; a new head and missing leaves are initialised, all other leaves must fit."""
    run, port = experiment.run, stage.spec.port
    batch = example_batch(port, stage.spec.task, 2)
    model, options = experiment.model, experiment.init_options
    checkpoint = foreign.opened(run.init, model.name, dict(model.options), options)
    shapes = _leaves(*port_shapes(port))
    head = [leaf for leaf in shapes if leaf.startswith(f"params/{port.head}/")]
    neck = necks.leaves(port, shapes)
    keep = not _resets(neck, run.head) and carrying.keeps_head(
        run.head, checkpoint, data.classes, stage.spec.task.head, port.outputs
    )
    tokens, source_rows, keys = {}, {}, ()
    if columns.announced(run.differs) and port.rows:
        tokens, source_rows, keys = columns.of_checkpoint(checkpoint, port)
    anew = [*tokens, *([] if keep else head)]
    prompted = _continues(checkpoint, stage)
    conversion = carrying.carry(
        checkpoint, port, shapes, reset=anew, differs=run.differs, unused=keys, prompted=prompted, lazy=True
    )
    for leaf in conversion.fresh:
        if leaf in tokens:
            conversion.ledger[leaf] = columns.entry(dict(port.rows)[leaf], tokens[leaf], shapes[leaf].shape)
            continue
        entry = conversion.ledger[leaf]
        entry["why"] = "announced in config.differs"
        if leaf in neck:
            entry["why"] = "the source has no neck"
            continue
        if leaf in head:
            entry["why"] = _why(run.head, checkpoint.labels) if entry["from"] else "the source has none"
            if neck:
                entry["why"] = "the source has no neck"
            elif entry["from"] and checkpoint.other_head is not None and stage.spec.task.head not in WORDS:
                entry["why"] = f"the source's head is that of a {checkpoint.other_head}"
        if run.head == "keep" and leaf in head:
            raise InputError(f"config.head=keep: {run.init} has no head ({leaf} is missing); set config.head=reset")
        if any(re.fullmatch(pattern, leaf) for pattern in checkpoint.layout.fresh):
            entry["why"] = "the source has none"
            continue
        pools = leaf.startswith(f"params/{port.units[-1]}/")  # a layer that the pool reads through
        if leaf not in head and not (pools and "pool" in run.differs):
            fix = "set config.model.pool to the checkpoint's, or announce it with config.differs=pool"
            raise InputError(
                f"config.init={run.init}: the checkpoint has no {leaf}; "
                f"{fix if pools else 'give one that has it, or set config.model as its weights are'}"
            )
    drawn = carrying.fresh_leaves(port, conversion.fresh, _key(experiment), batch)
    drawn |= {leaf: columns.carried(drawn[leaf], places, source_rows) for leaf, places in tokens.items()}
    if run.head == "prompts":
        drawn |= prompts.head(checkpoint, port, data.classes, options)
        for leaf in head:
            conversion.ledger[leaf] |= {"what": "initialised", "why": "config.head=prompts: embeddings of the classes"}
    tree = unflatten({**_leaves(conversion.params, conversion.model_state), **drawn})
    files = checkpoint.files
    source = {
        "sha256": files.sha256,
        "weights": files.weights.name,
        "layout": f"{checkpoint.layout.family}/{checkpoint.layout.name}",
        "commit": files.commit,
    }
    if files.adapter is not None:
        base = files.adapter.base
        source["adapter_base"] = {"init": base.init, "sha256": base.sha256, "commit": base.commit}
    lineage = {**_lineage(experiment, data), "source_sha256": files.sha256, "source": source}
    # Arrays of the host, some of them `Stored`: where parameters are split, no device ever holds all of them.
    return Start(
        params=tree.pop("params"),
        model_state=tree,
        ledger=conversion.ledger,
        lineage=lineage,
        unused=tuple(sorted(conversion.unused)),
        unwrapped=conversion.unwrapped,
        dropped=conversion.dropped,
        head=source_head.of_checkpoint(checkpoint, stage, run.differs),
        former=peft_prompts.learned(checkpoint.files, port) if prompted else None,
    )


def _continues(checkpoint: foreign.Checkpoint, stage: Stage) -> bool:
    """Whether the source is a `peft` file of prompts that the stage's method trains on."""
    name = peft_prompts.method(checkpoint.files)
    if name is None or name != stage.config.method:
        return False
    return peft_prompts.options(checkpoint.files).items() <= dict(stage.config.options).items()


def _from_run(experiment: Experiment, data: Dataset, stage: Stage, folder: epath.Path) -> Start:
    """Loads the parameters of a finished jaxfer run."""
    port, init, source = stage.spec.port, experiment.run.init, open_run(folder)
    _check_model(experiment, source.experiment)
    params, model_state = source.stage.leave(source.state, heads=True, to=stage)
    loaded = parts.without(params, (port.part for port in source.stage.spec.port.parts)), model_state
    kind, formerly = stage.spec.task.head, source.stage.spec.task.head
    ledger, filled = {}, {}
    source_leaves, batch = _leaves(*loaded), example_batch(port, stage.spec.task, 2)
    shapes = _leaves(*port_shapes(port))
    theirs, neck = necks.leaves(source.stage.spec.port, source_leaves), necks.leaves(port, shapes)
    other = necks.facts(source.stage.spec.port) != necks.facts(port)
    if other and stage.given.head is not None:
        raise InputError(
            f"method {stage.config.method!r} reads the source's output layer, which does not read this neck; set "
            "config.model.neck as in the source"
        )
    keep = not _resets(other, experiment.run.head) and _keeps_head(experiment.run.head, source, data, kind)
    anew = [] if keep else [path for path in shapes if path.startswith(f"params/{port.head}/")]
    left = []
    if stage.config.method == source.stage.config.method and stage.spec.method.former_of_head:
        _check_former(stage, source, data, keep)
    former = source.stage.hand_on(source.state, stage)
    if kind != formerly:  # all of either head: what stands before the output layer is its own
        left, anew = (_ending(leaves, port) for leaves in (source_leaves, shapes))
        if {kind, formerly} == {POOLED, EMBEDDING}:  # an embedding is what the output layer of a pooled head reads
            shared = {path for path in anew if path in left and not path.startswith(f"params/{port.head}/")}
            left, anew = ([path for path in paths if path not in shared] for paths in (left, anew))
    if other:
        left, anew = [*{*left, *theirs}], [*dict.fromkeys((*anew, *neck))]
    if left:
        source_leaves = {path: leaf for path, leaf in source_leaves.items() if path not in left}
    here, there = dict(port.rows), source.stage.spec.port
    tokens = columns.shared(port, there) if columns.announced(experiment.run.differs) else {}
    source_rows = {path: source_leaves.pop(path) for path, _ in there.rows} if tokens else {}
    for path, leaf in shapes.items():
        if path in tokens:
            ledger[path] = columns.entry(here[path], tokens[path], leaf.shape)
        elif path in anew:
            ledger[path] = _entry("re-initialised", path if path in source_leaves else None, leaf)
            why = _why(experiment.run.head, source.classes)
            why = "config.differs=neck" if other else why
            ledger[path]["why"] = why if kind == formerly else f"the source has a {formerly} head"
        elif path not in source_leaves or source_leaves[path].shape != leaf.shape:
            stored = tuple(source_leaves[path].shape) if path in source_leaves else "nothing"
            raise InputError(
                f"config.init={init}: {path} is {tuple(leaf.shape)} here, {stored} there; "
                "config.model must match the source's (see its config.json)"
            )
        else:
            filled[path], ledger[path] = source_leaves[path], _entry("loaded", path, leaf)
    unused = sorted(set(source_leaves) - set(ledger))
    if unused:
        raise InputError(
            f"config.init={init}: {len(unused)} source leaves are not in the model: {', '.join(unused[:3])}"
        )
    drawn = carrying.fresh_leaves(port, [*anew, *tokens], _key(experiment), batch)
    drawn |= {path: columns.carried(drawn[path], places, source_rows) for path, places in tokens.items()}
    tree = unflatten({**filled, **drawn})
    weights = loaded if source.stage.spec.method.merge else (source.state.params, source.state.model_state)
    lineage = {**_lineage(experiment, data), "source_sha256": fingerprint(*weights), "source": source.result["lineage"]}
    return Start(
        params=tree.pop("params"),
        model_state=tree,
        ledger=ledger,
        lineage=lineage,
        unused=tuple(sorted(left)),
        trained_heads=() if other else trained_heads(source, params),
        head=source_head.of_params(loaded[0], stage),
        former=former,
    )


def _ending(leaves: Mapping[str, Any], port: Port) -> list[str]:
    """Those of the model's last unit, which the head is in."""
    return [path for path in leaves if path.startswith(f"params/{port.units[-1]}/")]


def _check_former(stage: Stage, source: FinishedRun, data: Dataset, keep: bool) -> None:
    """`InputError` where examples that the source kept would have another meaning here."""
    own, there = ([stated(encoding) for encoding in each.spec.port.encodings] for each in (stage, source.stage))
    other = "classes or another head" if not keep or source.classes != data.classes else "preparation of examples"
    if not keep or source.classes != data.classes or own != there:
        raise InputError(
            f"method {stage.config.method!r} goes on with examples that its source kept, found other {other}; set "
            "config.head=keep and the source's classes and config.model, or start from another run"
        )


def _resets(other_neck: object, head: str) -> bool:
    """Whether the source's output layer read another neck's features, or none's; it can't be kept then."""
    if other_neck and head == "keep":
        raise InputError(
            "config.head=keep: the source's head does not read this neck (config.model.neck); set head=reset"
        )
    return bool(other_neck)


def _check_model(experiment: Experiment, source: Experiment) -> None:
    """Checks that the models match: with equal shapes but another mean, size or stride, weights would load silently."""
    if experiment.model.name != source.model.name:
        raise InputError(
            f"config.init={experiment.run.init}: the source's model is {source.model.name!r}, found config.model.name="
            f"{experiment.model.name}; set config.model.name={source.model.name}"
        )
    options, source_options = (dict(e.model.options) for e in (experiment, source))
    known = MODELS.schema(experiment.model.name)
    for option in experiment.run.differs:
        if option not in known:
            raise InputError(
                f"config.differs: model {experiment.model.name!r} has no option {option!r}{nearest(option, known)}"
            )
        if option in ("neck_relu", "neck_hidden") and "neck" not in experiment.run.differs:
            raise InputError(
                f"config.differs: another {option} makes another neck, all of it drawn anew; announce neck"
            )
    # Tokenizers are compared by content, not by path.
    free = MODELS.training(experiment.model.name) | {*experiment.run.differs}
    free |= columns.announced(experiment.run.differs)
    free |= {*necks.OPTIONS} if "neck" in free else set()
    free |= {"tokenizer"} if options.get("tokenizer_sha256") else set()
    # Of options that a record leaves out, the default is meant.
    unset = {option: default for option, (_, default) in known.items()}
    here, there = unset | options, unset | source_options
    differing = [
        f"{option} is {there[option]!r} there, {value!r} here"
        for option, value in here.items()
        if there[option] != value and option not in free
    ]
    if differing:
        raise InputError(
            f"config.init={experiment.run.init}: the source's model is different ({'; '.join(differing)}); leave "
            "these out of config.model, or announce what may differ in config.differs"
        )


def _keeps_head(head: str, source: FinishedRun, data: Dataset, kind: str) -> bool:
    if kind != (former := source.stage.spec.task.head):
        if head == "keep":
            raise InputError(
                f"config.head=keep: the source has a {former} head, not a {kind} one; set config.head=reset"
            )
        return False
    if kind in WORDS:
        return head != "reset"
    if head != "auto" or source.classes != data.classes:
        return head == "keep"
    if source.result["lineage"]["data_sha256"] != data.fingerprint:
        raise InputError(
            "config.head=auto: the source was trained on other data whose classes have the same names; if they mean "
            "the same set config.head=keep, else reset"
        )
    return True


def _why(head: str, classes: tuple[str, ...]) -> str:
    if head == "reset":
        return "config.head=reset"
    return "the classes differ from the source's" if classes else "the source's classes have no names"


def _entry(outcome: str, origin: str | None, leaf: Any) -> dict[str, Any]:
    return {"what": outcome, "from": origin, "shape": list(np.shape(leaf))}


def _leaves(params: Any, model_state: Any) -> Mapping[str, Any]:
    return flatten({"params": params, **model_state})

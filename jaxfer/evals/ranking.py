"""Which pretrained checkpoint to start from: scores of their frozen features on the target's training split.

Neither val nor test is read. What the scores are worth is measured where runs from the candidates exist: the weighted
tau between a score and what the runs reached, beside that of the candidates' size, depth and own accuracy.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from threadpoolctl import threadpool_limits

from jaxfer import config as configs
from jaxfer import files
from jaxfer.data.prepare import opened_once
from jaxfer.errors import InputError, nearest
from jaxfer.evals.ranked import BASELINES, Candidate, Ranking, Scored, writable
from jaxfer.evals.score_skill import reached, skills
from jaxfer.evals.transferability import SCORES
from jaxfer.models.port import FEATURES
from jaxfer.pretrained import starting
from jaxfer.runs.folder import holds_run
from jaxfer.runs.survey import survey
from jaxfer.training import candidates as sources
from jaxfer.training.progress import Reporter

# Fewer numbers than these are done before threads are at work: on two busy cores, two took 90 times as long as one.
ONE_THREAD = 2**22
SLOW = ("scipy.stats", "sklearn.covariance", "sklearn.mixture")  # imports, which are no score's seconds


def rank(
    spec: str | ConfigDict,
    candidates: Sequence[str],
    *,
    scores: Sequence[str] = tuple(SCORES),
    by: str = "logme",
    layers: bool = False,
    runs: Sequence[str | epath.Path] = (),
    out: str | epath.Path | None = None,
    seed: int = 0,
    place: str | epath.Path = ".",
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Ranking:
    """Ranks pretrained checkpoints for a config's data, by scores of their frozen features of its training split.

    Args:
      spec: a config file, as `jaxfer.load` takes one, or its config; its `data` and `task` count.
      candidates: what `config.init` may be, each once: checkpoints of any families, `run:FOLDER`; also a run's folder,
        and a config, whose `init` and `model` count: for weights whose files do not say what model they are.
      scores: names of SCORES.
      by: the one that ranks; it is computed too.
      layers: also `by` for every unit of each candidate: where to cut.
      runs: folders with runs (a sweep's, a comparison's): what those from each candidate reached on val.
      out: a folder for rank.json.
      seed: of the scores that draw.
      place: a run's folder; `sibling:NAME` is beside it.
      overrides: {"data.x": value}, as on the command line; `model.x` holds for every candidate.
      quiet: leave out what is being computed.

    Raises:
      InputError: no candidates, one that is named twice or can't read the data, an unknown score, or data that has not
        one class for each example.
    """
    overrides, place, reporter = overrides or {}, epath.Path(place), Reporter(quiet=quiet)
    scores = tuple(dict.fromkeys((*scores, *([by] if scores else []))))
    _check(candidates, scores, by, layers)
    if out is not None:
        writable(out)
    config = configs.load(spec, overrides) if isinstance(spec, str) else configs.override(spec, overrides)
    inits = _inits(candidates, place)
    existing = [run for folder in runs for run in survey(folder)]
    for module in SLOW:
        importlib.import_module(module)
    with opened_once():  # all are checked before the first is read
        plans = {
            name: sources.planned(config, init, overrides, place, name, own) for name, (init, own) in inits.items()
        }
        found = []
        for name, plan in plans.items():
            examples = f"{len(plan.data.splits['train']):,} training examples"
            reporter.say(f"{name}: {plan.experiment.model.name}, {examples}")
            of_runs = reached(plan.init, place, plan.experiment.data, plan.data.fingerprint, existing)
            found.append(_candidate(name, plan, scores, by, layers, seed, of_runs, reporter.say))
    columns = {name: [c.scores[name].value for c in found] for name in scores}
    columns |= {name: [c.heuristics[name] for c in found] for name in BASELINES}
    skill, data = skills(columns, [c.reached for c in found]), plan.data
    if runs and not skill:
        reporter.warn("no finished run on this data, classes and number of labels starts from one of the candidates")
    command = {
        "config": spec,
        "overrides": dict(overrides),
        "candidates": list(map(str, candidates)),
        "scores": list(scores),
        "by": by,
        "layers": layers,
        "runs": list(map(str, runs)),
        "seed": seed,
    }
    order = sorted(found, key=lambda c: -np.inf if c.scores[by].value is None else c.scores[by].value, reverse=True)
    ranking = Ranking(
        config=spec if isinstance(spec, str) else "",
        by=by,
        examples=len(data.splits["train"]),
        classes=len(data.classes),
        seed=seed,
        candidates=tuple(order),
        skill=skill,
        data_sha256=data.fingerprint,
        command=command if isinstance(spec, str) else {},
    )
    if out is not None:
        ranking.write(out)
    return ranking


def _check(candidates: Sequence[str], scores: Sequence[str], by: str, layers: bool) -> None:
    if isinstance(candidates, str) or not candidates or not all(candidates):
        found = f"{candidates!r}" if candidates else "none"
        raise InputError(f"--candidates: expected checkpoints, as config.init names them, found {found}; name some")
    for option, names in (("--by", (by,)), ("--scores", scores)):
        unknown = [name for name in names if name not in SCORES]
        if unknown or not names:
            found = f"{unknown[0]!r}{nearest(unknown[0], SCORES)}" if unknown else "none; leave it out for all"
            raise InputError(f"{option}: expected some of {', '.join(SCORES)}, found {found}")
    if layers and SCORES[by].chances:
        raise InputError(f"--layers: {by} reads what the source's head says, and layers have none; use another --by")


def _inits(candidates: Sequence[str], place: epath.Path) -> dict[str, tuple[str, ConfigDict | None]]:
    """{candidate: (as `config.init` names it, its own config)}; runs by their folders."""
    found: dict[str, tuple[str, ConfigDict | None]] = {}
    seen: dict[str, str] = {}
    for name in map(str, candidates):
        own = configs.load(name) if name.partition(":")[0].endswith(".py") else None
        init = name if own is None else own.init
        if init != "scratch" and not starting.is_foreign(init):
            init = f"run:{starting.source_folder(init, place, '--candidates')}"
        elif own is None and init != "scratch" and holds_run(files.opened(init)):
            init = f"run:{init}"
        same = starting.identity(init, place) + (str(own.model) if own is not None and init == "scratch" else "")
        if same in seen:
            also = "" if seen[same] == name else f" (also as {seen[same]})"
            raise InputError(f"--candidates: expected each once, found {name} twice{also}; leave one out")
        found[name], seen[same] = (init, own), name
    return found


def _candidate(
    name: str,
    plan: sources.Plan,
    scores: Sequence[str],
    by: str,
    layers: bool,
    seed: int,
    of_runs: Any,
    say: Callable[[str], None],
) -> Candidate:
    begun = time.perf_counter()
    frozen = sources.frozen(plan, units=layers, say=say)
    seconds, labels = time.perf_counter() - begun, plan.data.splits["train"].labels
    about, values = sources.about(plan), {}
    for score in scores:
        if not SCORES[score].chances:
            values[score] = _scored(score, frozen.x, labels, seed)
        elif frozen.chances is None:
            values[score] = Scored(value=None, why=f"it reads the source's head, but {frozen.why}")
        else:
            values[score] = _scored(score, frozen.chances, labels, seed)
    of_units = {unit: _scored(by, x, labels, seed) for unit, x in frozen.units.items()}
    of_units |= {unit: Scored(value=None, why=why) for unit, why in frozen.left_out.items()}
    instead = f"{name}: scores are of the mean of {frozen.reads}, since a layer above it is not in the checkpoint"
    return Candidate(
        init=name,
        model=about.model,
        reads=frozen.reads,
        width=frozen.x.shape[1],
        seconds=seconds,
        computed=frozen.computed,
        scores=values,
        heuristics=dict(
            parameters=about.parameters,
            depth=about.depth,
            source_accuracy=about.accuracy,
            source_examples=about.examples,
        ),
        layers=of_units,
        reached=of_runs,
        sha256=frozen.sha256,
        notes=(*plan.notes, *([] if frozen.reads == FEATURES else [instead])),
    )


def _scored(name: str, x: np.ndarray, labels: np.ndarray, seed: int) -> Scored:
    """A score, or why these features have none."""
    score, begun = SCORES[name], time.perf_counter()
    try:
        with threadpool_limits(1 if x.size < ONE_THREAD else None, "blas"):
            value = score.of(x, labels, **({"seed": seed} if score.seeded else {}))
    except InputError as error:
        return Scored(value=None, seconds=time.perf_counter() - begun, why=str(error).removeprefix(f"{name}: "))
    seconds = time.perf_counter() - begun
    return Scored(value=value, seconds=seconds) if np.isfinite(value) else Scored(value=None, why=f"it is {value}")

"""The plan of each stage: what trains, how fast and for how long. What can't run at all is refused before."""

from __future__ import annotations

from collections.abc import Iterator

from etils import epath
from ml_collections import ConfigDict

from jaxfer import config as configs
from jaxfer.diagnosis.finding import LISTED, NOTE, SEVERE, WARNING, Example, Finding, reached
from jaxfer.diagnosis.opened import Opened
from jaxfer.errors import NothingTrained
from jaxfer.method import FROZEN
from jaxfer.stages import Stage
from jaxfer.training.checked import Preflight
from jaxfer.training.examples import training_split
from jaxfer.training.preflight import preflight

RATE = {SEVERE: 100.0, WARNING: 10.0}  # times beyond the grid that the method is tuned over
OPTIMIZERS = ("adamw", "adam")  # whose rates the grids are of
WARMUP = 0.5  # of the steps
HEAD = "head"  # a method's group


def thawed(config: ConfigDict, place: epath.Path) -> tuple[ConfigDict, Preflight, list[Finding]]:
    """The config with all thawed in stages where everything is frozen, its preflight, and a finding for each of these.

    Raises:
      InputError: what else preflight refuses; a method that trains nothing though the config freezes nothing.
    """
    findings: dict[str, Finding] = {}
    while True:
        try:
            return config, preflight(config, place=place), [*findings.values()]
        except NothingTrained as error:
            if (where := error.where) in findings:
                raise
            stage, fix = where.rpartition(".")[2], f"loosen {where}.freeze or {where}.freeze_units"
            findings[where] = _nothing("train" if stage == where else stage, where, "everything is frozen", fix)
            within = where.partition(".")[2]
            freely = {"freeze": (), "freeze_units": 0, "norms": ()}
            config = configs.override(config, {f"{within}.{name}".lstrip("."): freely[name] for name in freely})


def _nothing(stage: str, where: str, why: str, fix: str) -> Finding:
    return Finding(
        severity=SEVERE,
        kind="nothing_trained",
        message=f"Stage {stage} would train no parameter: {why}.",
        fix=fix,
        value=0,
        threshold=1,
        examples=(Example(name=where, says=why),),
    )


def check(opened: Opened) -> Iterator[Finding]:
    """Of every stage that takes steps."""
    for stage in opened.ready.stages:
        where = f"config.stage.{stage.name}" if opened.ready.experiment.run.stages else "config"
        yield from _trainable(stage, where)
        if stage.spec.method.at_once is None:
            yield from _rate(stage, where)
            yield from _length(opened, stage, where)


def _trainable(stage: Stage, where: str) -> Iterator[Finding]:
    """Rates of 0; a method that adapts more than the head, of which the rules leave the head alone."""
    spec = stage.spec
    leaves = [leaf for _, leaf in spec.leaves if leaf is not None]
    if spec.method.at_once is None and leaves and not any(stage.hparams[f"lr/{x.group}"] * x.lr_scale for x in leaves):
        fix = f"raise {where}.lr, or a rate of {where}.rates or {where}.lr_rules"
        yield _nothing(stage.name, where, "every rate is 0", fix)
    groups = {group for _, group in spec.method.rules} - {FROZEN, HEAD}
    frozen = [path for path, leaf in spec.leaves if leaf is None and not path.startswith(f"{spec.port.head}/")]
    if groups and spec.trainable and all(path.startswith(f"{spec.port.head}/") for path in spec.trainable):
        yield Finding(
            severity=WARNING,
            kind="only_head",
            message=f"Stage {stage.name}: method {stage.config.method} is left with the head to train, "
            f"{len(spec.trainable)} of {len(spec.leaves)} parameters.",
            fix=f"loosen {where}.freeze or {where}.freeze_units, or set {where}.method=probe",
            value=0,
            threshold=1,
            examples=tuple(Example(name=path, says="frozen") for path in frozen[:LISTED]),
        )
    for note in stage.notes:
        yield Finding(severity=NOTE, kind="plan", message=f"Stage {stage.name}: {note}.", fix="see `jaxfer show`")


def _rate(stage: Stage, where: str) -> Iterator[Finding]:
    """Of `lr`, or of each group's rate where some of its parameters train."""
    spec, config = stage.spec, stage.config
    known = spec.method.hparams.get("lr")
    if known is None or config.optimizer not in OPTIMIZERS or not max(known[0], *known[1]):
        return
    if config.lr is not None:
        if config.lr:  # one of 0 trains nothing
            yield from _beyond(stage, f"{where}.lr", "the rate", config.lr, 1.0)
        return
    live = {leaf.group for _, leaf in spec.leaves if leaf is not None}
    for group, rate in config.rates.items():
        if group in live and rate:  # a rate of 0 is a way to freeze
            scale = spec.method.scales.get(group, 1.0)
            yield from _beyond(stage, f"{where}.rates.{group}", f"the rate of group {group},", rate, scale)


def _beyond(stage: Stage, name: str, what: str, rate: float, scale: float) -> Iterator[Finding]:
    """A finding where a rate is far from the method's grid, times the group's scale."""
    default, others = stage.spec.method.hparams["lr"]
    grid = [scale * value for value in (default, *others)]
    low, high = min(grid), max(grid)
    beyond = max(rate / high, low / rate if rate else float("inf"))
    if found := reached(beyond, RATE):
        severity, times = found
        side = f"{beyond:.3g} times {'above' if rate > high else 'below'}"
        yield Finding(
            severity=severity,
            kind="rate",
            message=f"Stage {stage.name}: {what} {rate:g} is {side} those that method {stage.config.method} is "
            f"tuned over, {low:g} to {high:g}.",
            fix=f"set {name} within them, or look at `jaxfer find-lr`",
            value=rate,
            threshold=low / times if rate < low else high * times,
            examples=(Example(name=name, says=f"{rate:g}"),),
        )


def _length(opened: Opened, stage: Stage, where: str) -> Iterator[Finding]:
    config = stage.config
    share = config.warmup / config.steps
    if share > WARMUP:
        yield Finding(
            severity=WARNING,
            kind="warmup",
            message=f"Stage {stage.name}: the rate rises during {config.warmup:,} of {config.steps:,} steps.",
            fix=f"lower {where}.warmup ('10%' of the steps is usual) or raise {where}.steps",
            value=share,
            threshold=WARMUP,
            examples=(Example(name=f"{where}.warmup", says=f"{config.warmup:,}"),),
        )
    count = len(training_split(opened.ready.experiment, stage, opened.data))
    epochs = config.steps * config.batch_size / count
    if epochs < 1:
        yield Finding(
            severity=WARNING,
            kind="part_of_an_epoch",
            message=f"Stage {stage.name}: {config.steps:,} steps of {config.batch_size:,} see {epochs:.2g} of an epoch "
            f"of {count:,} examples.",
            fix=f"raise {where}.steps ('1epochs' for one)",
            value=epochs,
            threshold=1,
            examples=(Example(name=f"{where}.steps", says=f"{config.steps:,}"),),
        )

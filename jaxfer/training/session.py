"""One attempt at a run: it restores or enters a State, steps, evaluates, saves, and writes the result."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from etils import epath

from jaxfer import files
from jaxfer.config.experiment import Experiment
from jaxfer.data.split import Dataset, Split
from jaxfer.errors import InputError, NonFiniteLoss
from jaxfer.parallel import cluster
from jaxfer.parallel.placement import Placement
from jaxfer.pretrained import carrying, starting
from jaxfer.runs import tokenizer
from jaxfer.runs.checkpoint import Checkpoints
from jaxfer.runs.finished import fingerprint, placed
from jaxfer.runs.folder import check_present, read_result
from jaxfer.runs.metrics import MetricsLog
from jaxfer.stages import Stage
from jaxfer.state import State
from jaxfer.training import lineage, results, stopping, teachers
from jaxfer.training.cached import Reading
from jaxfer.training.checked import Preflight
from jaxfer.training.due import Due
from jaxfer.training.entering import entered
from jaxfer.training.evaluation import Evaluation, evaluate_streams
from jaxfer.training.examples import training_split
from jaxfer.training.measured import examples
from jaxfer.training.preemption import Notice
from jaxfer.training.profile import Clock, Trace
from jaxfer.training.programs import Program
from jaxfer.training.progress import Reporter
from jaxfer.training.summary import parameter_table

Watch = Callable[[Mapping[str, float]], object]


@dataclasses.dataclass(kw_only=True, eq=False)
class Turn:
    """A stage that is to be trained to its end.

    Attributes:
      session: whose it is; it is told what comes of the steps.
      stage: as planned.
      ran: as its steps run: on stored features, or as planned.
      split: the training examples, as `ran` reads them.
      state: the stage's; whoever trains it leaves the last one here.
    """

    session: Session
    stage: Stage
    ran: Stage
    split: Split
    state: State

    @property
    def step(self) -> int:
        """Steps of the run that are done."""
        return self.stage.start + int(self.state.step)


@dataclasses.dataclass
class Session:
    """One attempt at a run: its fixed parts, and the record that goes into every checkpoint."""

    experiment: Experiment
    folder: epath.Path
    data: Dataset
    stages: tuple[Stage, ...]
    where: Placement
    checkpoints: Checkpoints
    notice: Notice
    reporter: Reporter
    watch: Watch | None = None

    def __post_init__(self) -> None:
        self.trace = Trace(self.experiment.run.profile if cluster.leader() else (), self.folder / "profile")
        self.log = MetricsLog(self.folder)
        self.clock = Clock()
        self.cost: dict[str, Any] | None = None  # of a finished run, of which a split is read: its training is over
        self.block: Program | None = None  # what trains the stage under way, where that is many steps at a call
        self.reading = Reading(self.experiment, self.where, self.notice, self.reporter)

    def close(self) -> None:
        """Closes every file, even where another can't be written."""
        with contextlib.ExitStack() as closed:
            closed.callback(self.checkpoints.close)
            closed.callback(self.reporter.close)
            closed.callback(self.trace.close)
            closed.callback(self.log.sync)  # of a loss that became non-finite, what led there

    def training(self, first: list[starting.Start]) -> Iterator[Turn]:
        """The run, up to what its generator returns: the contents of result.json.

        It pauses wherever a stage is to be trained, and yields it: by itself or together with those of other runs.

        Args:
          first: what the run starts from, if it has no checkpoint.
        """
        self.clock.start()
        say = self.reporter.warn if cluster.leader() else self.reporter.say  # all fall back together; one reports it
        restored = self.checkpoints.restore(self._blank, say=say)
        stop = self.stages[-1].stop
        if restored is None:
            stage, state = self.stages[0], self._start(first)
        else:
            state, self.record = self._adopt(*restored)
            stage = self.stages[self.record["stage"]]
            lineage.check(self.record["lineage"], self.data, self.folder)
        step = stage.start + int(state.step)
        if step > stop:
            raise InputError(f"{self.folder} was trained for {step} steps already, the config says {stop}")
        files.write_json(self.folder / "config.json", self.experiment.to_dict())
        files.write_text(
            self.folder / "params.txt", "\n".join(parameter_table(stage, self.where) for stage in self.stages)
        )
        ended = step == stop or (stage is self.stages[-1] and stopping.stopped(self.record, stage))
        if not ended:  # a finished run goes on: what its result describes will be gone
            files.remove(self.folder / "result.json")
        elif (self.folder / "result.json").exists():
            self.cost = read_result(self.folder)["cost"]
        self.checkpoints.discard_after(step)
        self.log.rewind(step, unevaluated=self.record["unevaluated"])
        self.reporter.begin(stop, step, name=stage.name, metric=stage.spec.task.monitor)
        if restored is not None and not ended:
            self.reporter.say(f"resumed at step {step} of {stop}, stage {stage.name!r}")
        if stop != self.record["stop"]:
            self.reporter.say(lineage.extended(self.record, self.stages[-1], step))
        while True:
            turn = self._turn(stage, state)
            if turn is not None:
                del state  # the turn's alone: it is donated
                self.clock.stop()
                yield turn
                self.clock.start()
                state = turn.state
            if stage is self.stages[-1]:
                return self._finish(state)
            params, model_state = stage.leave(state, heads=True, to=self.stages[stage.index + 1])
            left = {"name": stage.name, "sha256": fingerprint(params, model_state)}
            self.record["lineage"]["stages"].append(left)
            former, stage = stage, self.stages[stage.index + 1]
            self.record["stage"], self.block = stage.index, None
            self.record.pop("block_bytes", None)
            if stage.spec.task is not former.spec.task:
                params, model_state, fresh = self._under_another_head(former, stage, params, model_state)
                left |= {"task": former.config.task or self.experiment.task.name, "next_head": list(fresh)}
            state = self._enter(stage, params, model_state, former=former.hand_on(state, stage))

    def _under_another_head(
        self, former: Stage, stage: Stage, params: Any, model_state: Any
    ) -> tuple[Any, Any, tuple[str, ...]]:
        """Parameters for a stage of another task; its evaluations are not compared with those before."""
        stopping.forget(self.record)
        self.reporter.follow(stage.spec.task.monitor)
        key = starting.fresh_key(self.experiment.run.seed)
        made = carrying.under_another_head(params, model_state, former.spec.port.head, stage.spec.port, key)
        self.reporter.say(f"stage {stage.name!r}: made anew for its task: {', '.join(made[2])}")
        return made

    def _start(self, first: list[starting.Start]) -> State:
        if not first:  # a kill came before the first checkpoint
            ready = Preflight(experiment=self.experiment, data=self.data, stages=self.stages, where=self.where)
            first.append(lineage.begin(ready, self.folder))
        start = first.pop()
        files.write_json(self.folder / "ledger.json", start.to_dict())
        if cluster.leader():
            tokenizer.keep(self.stages[0].spec.port, self.folder / tokenizer.FOLDER)
        if self.experiment.run.init != "scratch":
            self.reporter.say(start.table())
            trained = {f"params/{path}" for stage in self.stages for path in stage.spec.trainable}
            if self.experiment.run.head != "prompts" and (never := start.drawn_and_frozen(trained)):
                self.reporter.say(never)
        self.record = {
            "stage": 0,
            "stop": self.stages[-1].stop,
            "window": [],
            "cost": {"seconds": 0.0, "compile_seconds": 0.0, "input_seconds": 0.0, "train_seconds": 0.0, "examples": 0},
            "lineage": {**start.lineage, "stages": []},
            "val": None,
            "best": None,
            "unevaluated": False,
        }
        return self._enter(self.stages[0], start.params, start.model_state, start.head, start.former)

    def _adopt(self, state: State, record: dict[str, Any]) -> tuple[State, dict[str, Any]]:
        """Adds key, hparams and other networks to a restored State: they follow from the config, also when extended."""
        stage = self.stages[record["stage"]]
        hparams = {name: np.float32(value) for name, value in stage.hparams.items()}
        key = stage.step_key(self.experiment.run.seed)
        others = teachers.loaded(stage, self.experiment, self.folder)
        return self.where.place(stage.spec, state.replace(hparams=hparams, key=key, others=others)), record

    def _blank(self, record: Mapping[str, Any]) -> State:
        stage = self.stages[record["stage"]]
        blank = stage.blank(self.experiment.run.seed)
        return placed(blank, self.where.shardings(stage.spec, blank.params, blank))

    def _enter(self, stage: Stage, params: Any, model_state: Any, head: Any = None, former: Any = None) -> State:
        if stage.spec.method.measure is not None:  # which may take longer than the steps
            count, name = len(examples(self.experiment, stage, self.data)), stage.config.method
            self.reporter.say(f"stage {stage.name!r}: {name} measures {count:,} examples before its first step")
        run = {"experiment": self.experiment, "data": self.data, "where": self.where, "folder": self.folder}
        return entered(stage, params, model_state, head, former, **run)

    def _turn(self, stage: Stage, state: State) -> Turn | None:
        """The stage as it is to be trained; None where it is at its end."""
        done = int(state.step)
        if self.record["unevaluated"]:  # the last attempt ended after its save and before its evaluation
            self._evaluate(stage, state, stage.start + done)
            if self.record["unevaluated"]:
                self._leave(stage.start + done)
        if done == stage.config.steps or stopping.stopped(self.record, stage):  # resumed at the end of the stage
            return None
        split = training_split(self.experiment, stage, self.data)
        if stage.spec.method.at_once is not None:
            return Turn(session=self, stage=stage, ran=stage, split=split, state=state)
        ran, split = self.reading(stage, state, split, trains=True)
        split = ran.spec.task.expanded(split, ran.spec.port.encodings)
        return Turn(session=self, stage=stage, ran=ran, split=split, state=state)

    def in_block(self, program: Program) -> None:
        """The stage under way is trained in this program, many steps at a call."""
        self.block, self.record["block_bytes"] = program, program.peak_bytes

    def compiled(self, program: Program, fresh: bool) -> None:
        """A stage is trained in this program, which is new or another run's."""
        self.record["cost"]["compile_seconds"] += program.compile_seconds if fresh else 0.0

    def due(self, stage: Stage, step: int) -> Due:
        """What is due after a step."""
        return Due.after(step, self.experiment.run, ends=step == stage.stop)

    def took(
        self,
        stage: Stage,
        step: int,
        lines: Sequence[dict[str, float]],
        *,
        seconds: float,
        waited: float = 0.0,
        examples: int = 0,
    ) -> None:
        """Records the metrics of the steps up to `step`.

        Args:
          stage: theirs.
          step: the last of them.
          lines: the metrics of each.
          seconds: that they took.
          waited: seconds of these without input.
          examples: that they read; 0: a batch each.

        Raises:
          NonFiniteLoss: a loss or a gradient is not finite.
        """
        for at, line in enumerate(lines, start=step - len(lines) + 1):
            if not all(math.isfinite(line[name]) for name in ("loss", "grad_norm")):
                raise NonFiniteLoss(
                    f"non-finite loss at step {at}, stage {stage.name!r}: loss {line['loss']}, grad_norm "
                    f"{line['grad_norm']}; lower the rate or set config.clip, and use another --workdir"
                )
            self.record["window"].append(line)
        cost = self.record["cost"]
        cost["train_seconds"] += seconds
        cost["input_seconds"] += waited
        cost["examples"] += examples or len(lines) * stage.config.batch_size

    def reached(self, stage: Stage, state: State, step: int, *, asked: bool) -> bool:
        """Does what is due after a step whose metrics are recorded; returns whether the stage ends early with it.

        Args:
          stage: under way.
          state: after the step.
          step: of the run.
          asked: whether to save and leave.

        Raises:
          NonFiniteLoss: of the validation split.
          Preempted, Interrupted: the process is asked to stop; all is saved.
        """
        due, last = self.due(stage, step), step == self.stages[-1].stop
        if due.logs:
            self._log_train(stage, step)
        if due.saves or asked:
            # Saved first: whatever becomes of the evaluation, a later start can make it.
            self.record["unevaluated"] = due.evaluates
            self._save(stage, state, step)
        if self.record["unevaluated"] and not asked:
            self._evaluate(stage, state, step)
        # It came before, or during the evaluation.
        if asked or self.record["unevaluated"] or (due.saves and not last and self.notice):
            self._leave(step)
        return stopping.stopped(self.record, stage)

    def _leave(self, step: int) -> NoReturn:
        self.log.sync()
        self.checkpoints.wait()
        raise self.notice.stopped(f"saved at step {step} of {self.stages[-1].stop}")

    def _log_train(self, stage: Stage, step: int) -> None:
        window, self.record["window"] = self.record["window"], []
        means = {name: math.fsum(line[name] for line in window) / len(window) for name in window[0]}
        self._write(stage, step, "train", means)

    def _evaluate(self, stage: Stage, state: State, step: int) -> None:
        task = stage.spec.task
        measured = self._measure(stage, state, "val")
        if measured is None:
            return
        watched = "loss" if "loss" in measured.metrics else task.monitor
        if not math.isfinite(measured.metrics[watched]):
            self.checkpoints.wait()
            self.checkpoints.discard_after(step - 1)
            raise NonFiniteLoss(
                f"non-finite {watched} on val after step {step}, stage {stage.name!r}: {measured.metrics[watched]}; "
                "lower the rate or set config.clip, and use another --workdir"
            )
        self.record["cost"]["compile_seconds"] += measured.compile_seconds
        self.record["val"] = results.noted(step, measured)
        self._write(stage, step, "val", measured.metrics)
        why = ""
        if stopping.judge(self.record, self.experiment.run, stage, self.record["val"]):
            why = stopping.why(self.record, stage)
        elif self.watch is not None and self.watch({"step": step, **measured.metrics}) and step != stage.stop:
            stopping.stop(self.record, stage, step)
            why = "whoever watches it says so"
        if why:
            self.reporter.say(f"stage {stage.name!r} stops early, at step {step}: {why}")
        self.record["unevaluated"] = False
        self.checkpoints.amend(step, *self._recorded())

    def _measure(self, stage: Stage, state: State, split: str) -> Evaluation | None:
        """Evaluates a split; None where SIGTERM came meanwhile: the next attempt evaluates the saved checkpoint."""
        size = self.experiment.run.eval_batch_size
        stage, examples = self.reading(stage, state, self.data.splits[split])
        data = dataclasses.replace(self.data, splits={**self.data.splits, split: examples})
        return evaluate_streams(stage.spec, state, data, split, self.where, size, stop=self.notice)

    def _write(self, stage: Stage, step: int, split: str, metrics: Mapping[str, float]) -> None:
        seconds = round(self._seconds(), 3)
        line = {"step": step, "stage": stage.name, "split": split, **metrics, "seconds": seconds}
        self.log.write(line)
        self.reporter.line(line)

    def _seconds(self) -> float:
        return self.record["cost"]["seconds"] + self.clock.seconds

    def _save(self, stage: Stage, state: State, step: int) -> None:
        check_present(self.folder)  # orbax would make it anew, and the run end in a folder that lacks its beginning
        self.log.sync()
        self.checkpoints.save(step, state, *self._recorded(), stage.spec.frozen)

    def _recorded(self) -> tuple[dict[str, Any], list[int]]:
        """What a checkpoint holds beside the State: the record up to now and the steps of the best evaluations."""
        record = {**self.record, "cost": {**self.record["cost"], "seconds": self._seconds()}}
        return record, stopping.best_steps(record)

    def _cost(self, stage: Stage, state: State) -> dict[str, Any]:
        """`cost` of result.json."""
        ran, computed = self.reading.cost(stage)
        step = results.of_step(ran, state, self.where, self.record.get("block_bytes"), self.block)
        cost = results.cost(ran, stage, state, self.where, self.record["cost"], step)
        return {"seconds": round(self._seconds(), 3), **cost, **computed}

    def _finish(self, state: State) -> dict[str, Any]:
        """Writes result.json for the last or the best parameters."""
        run, record, stage = self.experiment.run, self.record, self.stages[-1]
        cost = self.cost or self._cost(stage, state)
        self.log.sync()  # neither a record of an evaluation nor a result must outlive them
        self.checkpoints.wait()
        step = last = stage.start + int(state.step)
        if run.select == "best" and record["best"]["step"] != step:
            step = record["best"]["step"]
            state, best_record = self.checkpoints.restore(self._blank, step=step)
            stage = self.stages[best_record["stage"]]
        measured = {"val": results.recalled(record["best"] if run.select == "best" else record["val"])}
        if run.test:
            test = self._measure(stage, state, "test")
            if test is None:
                self._leave(last)
            measured["test"] = test
        result = results.contents(
            self.experiment, self.data, stage, state, self.where, record, measured=measured, step=step, cost=cost
        )
        files.write_json(self.folder / "result.json", result)
        return result

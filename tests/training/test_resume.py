"""Whatever stops a run, the same command ends it as if nothing had happened; what else may go on in its folder."""

from __future__ import annotations

import dataclasses
import errno
import gc
import itertools
import os
import re
import shutil
import signal
import time

import orbax.checkpoint as ocp
import pytest

import jaxfer
from jaxfer import files
from jaxfer.errors import InputError, refused
from jaxfer.runs.checkpoint import Checkpoints
from jaxfer.runs.finished import open_run
from jaxfer.runs.folder import epath, locked
from jaxfer.runs.metrics import read_metrics
from jaxfer.training import loop, preemption, preflight, session, stepping
from jaxfer.training.preemption import Notice
from tests import kill, killed
from tests.experiments import tiny_config
from tests.runs.test_checkpoint import damage

pytestmark = pytest.mark.usefixtures("little_garbage")


class Stop(Exception):
    """In place of a kill."""


def two_stages():
    """The kill script's `images`, shorter: it saves at steps 2, 4, 5, 6 (the end of a stage), 8, 10, 12 and 13."""
    config = killed.get_config()
    config.parallel.devices = 1
    config.stage.probe.steps, config.stage.tune.steps, config.stage.tune.warmup = 6, 7, 2
    config.update(log_every=4, save_every=2, eval_every=5)
    return config


def one_stage(**fields):
    fields = {"steps": 7, "save_every": 2, "eval_every": 3, "log_every": 5, **fields}
    config = tiny_config("resnet_basic", **fields)
    config.parallel.devices = 1
    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """`one_stage`, uninterrupted: its folder."""
    folder = tmp_path_factory.mktemp("whole")
    jaxfer.run(one_stage(), folder, quiet=True)
    return folder


def run_again(folder, config=None):
    jaxfer.run(one_stage() if config is None else config, folder, quiet=True)
    return kill.ending(folder)


def unfinished(whole, folder):
    """A copy of the run as it was just before it had its result."""
    shutil.copytree(whole, folder)
    (folder / "result.json").unlink()
    return folder


@pytest.mark.system
@pytest.mark.parametrize(
    ("optimizer", "fields"),
    [
        ("lion", {}),  # one moment
        ("adafactor", {}),  # a row and a column
        ("muon", {"schedule": "plateau", "schedule_options": (("patience", 1.0), ("window", 1.0))}),
        ("prodigy", {"clip": 0.01, "clip_mode": "agc"}),
    ],
)
def test_resumed_with_another_optimizer(optimizer, fields, tmp_path, monkeypatch):
    config = tiny_config("row_mlp", steps=4, save_every=2, optimizer=optimizer, **fields)
    config.model.update(width=128, mlp_width=130)
    config.parallel.devices = 1
    jaxfer.run(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(loop, "preemption_notice", lambda: Asked(2))
        jaxfer.run(config, tmp_path / "parts", quiet=True)
    assert run_again(tmp_path / "parts", config) == kill.ending(tmp_path / "whole")


@pytest.mark.system
@pytest.mark.rest
def test_interrupted_at_any_save(tmp_path, monkeypatch):
    """Stopped before or after a save is under way: in the stages, at their boundary, at the end."""
    jaxfer.run(two_stages(), tmp_path / "whole", quiet=True)
    reference, save, saves = kill.ending(tmp_path / "whole"), Checkpoints.save, []
    for number, before in [(1, True), (1, False), (4, True), (4, False), (5, False), (8, False)]:
        calls = itertools.count(1)

        def stopping(self, *args, number=number, before=before, calls=calls):
            stops = next(calls) == number
            if not (stops and before):
                save(self, *args)
            saves.append(args[0])
            if stops:
                raise Stop

        folder = tmp_path / f"{number}_{before}"
        monkeypatch.setattr(Checkpoints, "save", stopping)
        with pytest.raises(Stop):
            jaxfer.run(two_stages(), folder, quiet=True)
        monkeypatch.undo()
        assert not reference.differences(run_again(folder, two_stages())), (number, before)
    assert set(saves) == {2, 4, 5, 6, 8, 10, 12, 13}


class Asked(Notice):
    """A notice that comes at a given question."""

    def __init__(self, first):
        self.questions = itertools.count(1)
        self.first = first

    def __bool__(self):
        return next(self.questions) >= self.first

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


@pytest.mark.system
def test_stages_that_freeze_other_parameters(tmp_path, monkeypatch):
    """Each set is written once, however small; it is stopped in each stage, and the best checkpoint keeps its set."""
    monkeypatch.setattr("jaxfer.runs.checkpoint.SMALL", 0)
    config = one_stage(select="best", save_every=1, eval_every=1, lr=0.0)
    config.stages = ("probe", "upper")
    config.stage.probe = dict(method="probe", steps=2)
    config.stage.upper = dict(method="full", freeze_units=1, steps=3)
    jaxfer.run(config, tmp_path / "whole", quiet=True)
    assert len(list((tmp_path / "whole" / "checkpoints_frozen").iterdir())) == 2
    saved = []
    while not (tmp_path / "parts" / "result.json").exists():
        monkeypatch.setattr(loop, "preemption_notice", lambda: Asked(2 + len(saved)))
        try:
            jaxfer.run(config, tmp_path / "parts", quiet=True)
        except SystemExit as stopped:
            saved.append(int(re.search(r"saved at step (\d) of 5", stopped.message)[1]))
    assert min(saved) <= 2 < max(saved), "a stop in each stage"
    assert not kill.ending(tmp_path / "whole").differences(kill.ending(tmp_path / "parts"))


@pytest.mark.system
@pytest.mark.rest  # every pair of `make conformance` is stopped once, `tests/kill.py` stops at random
def test_sigterm_between_any_two_questions(tmp_path, whole, monkeypatch):
    """After any step, and between the batches of an evaluation, which the next sitting makes up for."""
    reference, saved = kill.ending(whole), []
    for at in itertools.count(1):
        monkeypatch.setattr(loop, "preemption_notice", lambda at=at: Asked(at))
        try:
            jaxfer.run(one_stage(), tmp_path / str(at), quiet=True)
            break
        except SystemExit as stopped:
            assert stopped.code == 75
            text = re.fullmatch(r"SIGTERM: saved at step (\d+) of 7; run the same command again", stopped.message)
            saved.append(int(text[1]))
        monkeypatch.undo()
        assert not reference.differences(run_again(tmp_path / str(at))), at
    assert set(saved) == set(range(1, 8)) and len(saved) > 7, "no evaluation was interrupted"


@pytest.mark.system
def test_an_evaluation_that_is_killed_loses_no_step(tmp_path, whole, monkeypatch):
    """The step is saved before it is evaluated; the next attempt evaluates it, and an attempt may be killed again."""
    reference, real = kill.ending(whole), session.evaluate_streams
    for number, step in ((1, 3), (2, 6), (3, 7)):
        calls, folder = itertools.count(1), tmp_path / str(number)

        def killed(*args, number=number, calls=calls, **options):
            if next(calls) >= number:
                raise Stop
            return real(*args, **options)

        monkeypatch.setattr(session, "evaluate_streams", killed)
        with pytest.raises(Stop):
            jaxfer.run(one_stage(), folder, quiet=True)
        assert max(int(path.name) for path in (folder / "checkpoints").iterdir()) == step
        monkeypatch.setattr(
            session, "evaluate_streams", lambda *args, **options: None
        )  # SIGTERM while it is made up for
        with pytest.raises(SystemExit) as stopped:
            jaxfer.run(one_stage(), folder, quiet=True)
        assert stopped.value.message.startswith(f"SIGTERM: saved at step {step} of 7;")
        monkeypatch.undo()
        assert not reference.differences(run_again(folder)), step
        best = [open_run(run, "best").state.step for run in (folder, whole)]
        assert best[0] == best[1], "the last record knows the last evaluation"


@pytest.mark.system
def test_an_interrupt_saves_the_step_under_way(tmp_path, whole, monkeypatch):
    real = session.Reporter.step

    def interrupted(self, step, *more):
        real(self, step, *more)
        if step == 5:
            graces.append(preemption._active.grace)
            signal.raise_signal(signal.SIGINT)

    graces = []
    monkeypatch.setattr(session.Reporter, "step", interrupted)
    with pytest.raises(KeyboardInterrupt, match="^interrupted: saved at step 5 of 7; run the same command again$"):
        jaxfer.run(one_stage(grace=45.0), tmp_path, quiet=True)
    assert graces == [45.0], "config.grace is of the run under way"
    monkeypatch.undo()
    assert not kill.ending(whole).differences(run_again(tmp_path))


def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path, whole, monkeypatch, capfd):
    """The second save fails in orbax's own threads; the metrics and the first save are whole."""
    real, saves = ocp.JsonCheckpointHandler._save_fn, itertools.count(1)

    async def full(self, *args):
        if next(saves) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        await real(self, *args)

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "_save_fn", full)
    with pytest.raises(Exception, match="No space left on device") as failed:
        jaxfer.run(one_stage(), tmp_path, quiet=True)
    assert refused(failed.value).startswith("files can't be written (No space left on device); free some space")
    del failed
    gc.collect()
    assert capfd.readouterr().err == ""
    monkeypatch.undo()
    assert not kill.ending(whole).differences(run_again(tmp_path))


def test_a_folder_that_is_moved_away_is_one_line(tmp_path, whole, monkeypatch, capfd):
    folder, real = tmp_path / "run", session.Reporter.step

    def moving(self, step, *more):
        real(self, step, *more)
        if step == 5:
            folder.rename(tmp_path / "moved")

    monkeypatch.setattr(session.Reporter, "step", moving)
    with pytest.raises(InputError, match="run was removed or renamed during the run; put it back"):
        jaxfer.run(one_stage(), folder, quiet=True)
    monkeypatch.undo()
    gc.collect()
    assert capfd.readouterr().err == ""
    _put_back(tmp_path / "moved", folder)
    assert not kill.ending(whole).differences(run_again(folder))


def _put_back(moved, folder):
    """Renames the folder back; threads of orbax may still be writing where it was, for a moment."""
    for attempts_left in reversed(range(100)):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            return moved.rename(folder)
        except OSError:
            if not attempts_left:
                raise
            time.sleep(0.1)


@pytest.mark.system
def test_resumed_on_other_devices_the_losses_are_the_same(tmp_path, monkeypatch):
    """A sitting a step, each on another mesh: 1, 2, 4 devices and back, data parallel, fsdp, tensor; with dropout."""
    model = dict(name="vit", patch=3, width=12, layers=1, heads=2, mlp_width=20, image=(6, 9, 3), dropout=0.2)
    sittings = (
        *(dict(devices=1), dict(devices=2), dict(devices=4, mode="fsdp"), dict(devices=2, mode="fsdp")),
        *(dict(devices=4, fsdp=2, tensor=2), dict(devices=1)),
    )
    for name, meshes in (("whole", sittings[:1]), ("parts", sittings)):
        for mesh in meshes:
            config = tiny_config("vit_cls", model=model, steps=len(sittings), log_every=1)
            config.parallel.update(mesh)
            if mesh is not meshes[-1]:
                monkeypatch.setattr(loop, "preemption_notice", lambda: Asked(1))
                with pytest.raises(SystemExit):
                    jaxfer.run(config, tmp_path / name, quiet=True)
                monkeypatch.undo()
            else:
                jaxfer.run(config, tmp_path / name, quiet=True)
    whole, parts = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    assert [(line["step"], line["split"]) for line in parts] == [(line["step"], line["split"]) for line in whole]
    for ours, theirs in zip(whole, parts, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-5)
    assert files.read_json(tmp_path / "parts" / "result.json")["mesh"] == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.system
def test_sigterm_before_the_first_step(tmp_path, whole, monkeypatch):
    """While the data is read, while a program compiles: noticed after the first step, saved."""
    for name, module in [("preflight", loop), ("train_program", stepping)]:
        real = getattr(module, name)

        def during(*args, real=real, **options):
            signal.raise_signal(signal.SIGTERM)
            return real(*args, **options)

        monkeypatch.setattr(module, name, during)
        with pytest.raises(SystemExit) as stopped:
            jaxfer.run(one_stage(), tmp_path / name, quiet=True)
        assert stopped.value.code == 75
        monkeypatch.undo()
        assert not kill.ending(whole).differences(run_again(tmp_path / name)), name


def test_sigterm_after_the_last_step_finishes(tmp_path, whole, monkeypatch):
    real = session.Session._finish

    def during(self, state):
        signal.raise_signal(signal.SIGTERM)
        return real(self, state)

    monkeypatch.setattr(session.Session, "_finish", during)
    assert not kill.ending(whole).differences(run_again(tmp_path))


@pytest.mark.system
@pytest.mark.rest  # tests/runs/test_checkpoint.py damages the newest in many ways
def test_a_truncated_newest_checkpoint(tmp_path, whole, capsys):
    """Each of its files in turn; one deleted, one zeroed, one with a flipped bit: the run says so and ends the same.

    A bit of the file that holds the values may be of a book that nobody reads: it is flipped in eight places.
    """
    reference, newest = kill.ending(whole), whole / "checkpoints" / "7"
    files = sorted((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    values = [path for path in files if path.parent.name == "d"][-1]  # not orbax's own books, which may be larger
    harm = [(path, "cut") for path in files] + [(values, how) for how in ("deleted", "zeroed")]
    harm += [(values, f"flipped {place}") for place in range(8)]
    told = []
    for i, (path, how) in enumerate(harm):
        folder = unfinished(whole, tmp_path / str(i))
        kind, *place = how.split()
        damage(folder / path.relative_to(whole), kind, *map(int, place))
        assert not reference.differences(run_again(folder)), (path, how)
        said = " ".join(capsys.readouterr().err.split())
        if said:
            assert said.startswith("warning: checkpoint of step 7 can't be read"), said
            assert said.endswith("falling back to step 6"), said
            told.append((path.relative_to(newest).parts[0], kind))
    ways = ("cut", "deleted", "zeroed", "flipped")
    assert set(told) == {("record", "cut"), *(("state", how) for how in ways)}


def test_no_checkpoint_left(tmp_path, whole):
    folder = unfinished(whole, tmp_path / "run")
    for path in folder.glob("checkpoints/*/record/metadata"):
        damage(path, "cut")
    with pytest.raises(InputError, match=r"none of the checkpoints \[7, 6.*delete the folder to start over"):
        run_again(folder)
    shutil.rmtree(folder / "checkpoints")
    assert not kill.ending(whole).differences(run_again(folder))


def test_the_best_of_equals_is_the_earliest(tmp_path, capsys):
    """At rate 0 all evaluations are equal; the first stays the best, on disk too, and after a fallback."""
    config = one_stage(method="probe", lr=0.0, select="best", eval_every=2, save_every=1)
    assert jaxfer.run(config, tmp_path, quiet=True)["checkpoint_step"] == 2
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "6", "7"]
    assert int(open_run(tmp_path, "best").state.step) == 2
    reference = kill.ending(tmp_path)
    (tmp_path / "result.json").unlink()
    damage(tmp_path / "checkpoints" / "7" / "record" / "metadata", "cut")
    assert not reference.differences(run_again(tmp_path, config))


def test_a_fallback_keeps_the_best_of_then(tmp_path, monkeypatch):
    """The newest is the best so far; when it is torn, the best before it must still be there."""
    values = iter([0.5, 0.25, 0.75])
    real = session.evaluate_streams

    def planted(*args, **options):
        found = real(*args, **options)
        return type(found)(metrics={**found.metrics, "accuracy": next(values)}, compile_seconds=0.0)

    monkeypatch.setattr(session, "evaluate_streams", planted)
    config = one_stage(select="best", steps=3, eval_every=1)
    assert jaxfer.run(config, tmp_path, quiet=True)["checkpoint_step"] == 3
    (tmp_path / "result.json").unlink()
    damage(tmp_path / "checkpoints" / "3" / "record" / "metadata", "cut")
    values = iter([0.25])
    assert jaxfer.run(config, tmp_path, quiet=True)["checkpoint_step"] == 1


def test_a_torn_best_checkpoint_is_one_clear_line(tmp_path):
    config = one_stage(method="probe", lr=0.0, select="best", eval_every=2, save_every=1)
    jaxfer.run(config, tmp_path, quiet=True)
    damage(tmp_path / "checkpoints" / "2" / "record" / "metadata", "cut")
    with pytest.raises(InputError, match="checkpoint of step 2 can't be read"):
        open_run(tmp_path)
    (tmp_path / "result.json").unlink()
    with pytest.raises(InputError, match="checkpoint of step 2 can't be read"):
        jaxfer.run(config, tmp_path, quiet=True)


def test_a_finished_run_is_returned_without_work(whole, monkeypatch):
    def work(*args, **options):
        raise AssertionError("worked")

    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    monkeypatch.setattr(loop, "Checkpoints", work)
    assert jaxfer.run(one_stage(), whole, quiet=True) == files.read_json(whole / "result.json")
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


@pytest.mark.system
def test_extended_it_equals_the_long_run(tmp_path, whole):
    """At a constant rate; every leaf bitwise, though the short run evaluated and logged at its end."""
    shutil.copytree(whole, tmp_path / "extended")
    jaxfer.run(one_stage(steps=11), tmp_path / "extended", quiet=True)
    jaxfer.run(one_stage(steps=11), tmp_path / "long", quiet=True)
    extended, long = kill.ending(tmp_path / "extended"), kill.ending(tmp_path / "long")
    assert extended.found["last checkpoint"] == long.found["last checkpoint"]
    assert open_run(tmp_path / "extended").result["steps"] == 11
    with pytest.raises(InputError, match="was trained for 11 steps already, the config says 7"):
        jaxfer.run(one_stage(), tmp_path / "extended", quiet=True)


@pytest.mark.system
def test_another_length_midway_through_a_schedule_is_refused(tmp_path, monkeypatch):
    """A cosine of other length is another run, silently; at its end it may go on, and the lineage says so."""
    config = one_stage(schedule="cosine")
    monkeypatch.setattr(loop, "preemption_notice", lambda: Asked(2))
    with pytest.raises(SystemExit):
        jaxfer.run(config, tmp_path / "run", quiet=True)
    monkeypatch.undo()
    with pytest.raises(InputError, match="an unfinished run whose last stage has 7 steps, here 11: .* cosine schedule"):
        jaxfer.run(one_stage(schedule="cosine", steps=11), tmp_path / "run", quiet=True)
    assert "extended" not in jaxfer.run(config, tmp_path / "run", quiet=True)["lineage"]
    result = jaxfer.run(one_stage(schedule="cosine", steps=11), tmp_path / "run", quiet=True)
    assert result["lineage"]["extended"] == [{"at": 7, "from": 7, "to": 11}]


def test_other_data_is_refused(tmp_path, whole, monkeypatch):
    """The same path, another content: unfinished or finished."""
    real = preflight.build
    other = lambda *args, **options: dataclasses.replace(real(*args, **options), fingerprint="0" * 64)  # noqa: E731
    for folder in (shutil.copytree(whole, tmp_path / "finished"), unfinished(whole, tmp_path / "unfinished")):
        monkeypatch.setattr(preflight, "build", other)
        with pytest.raises(
            InputError, match="the data has changed since the run began .*000000000000 now.; restore it"
        ):
            run_again(folder)
        monkeypatch.undo()
        assert not kill.ending(whole).differences(run_again(folder))


@pytest.mark.system
def test_while_it_is_extended_it_is_not_finished(tmp_path, whole, monkeypatch):
    """Its old result describes a checkpoint that will go; and it can't be made shorter again than it is."""
    shutil.copytree(whole, tmp_path / "run")
    monkeypatch.setattr(loop, "preemption_notice", lambda: Asked(3))
    with pytest.raises(SystemExit):
        jaxfer.run(one_stage(steps=11), tmp_path / "run", quiet=True)
    monkeypatch.undo()
    with pytest.raises(InputError, match="is not finished; run the same"):
        open_run(tmp_path / "run")
    with pytest.raises(InputError, match="was trained for 9 steps already, the config says 7"):
        jaxfer.run(one_stage(), tmp_path / "run", quiet=True)
    jaxfer.run(one_stage(steps=11), tmp_path / "run", quiet=True)
    jaxfer.run(one_stage(steps=11), tmp_path / "long", quiet=True)
    found = [kill.ending(tmp_path / name).found["last checkpoint"] for name in ("run", "long")]
    assert found[0] == found[1]


def test_the_test_split_may_be_asked_for_later(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "later")
    later = jaxfer.run(one_stage(test=True), tmp_path / "later", quiet=True)
    at_once = jaxfer.run(one_stage(test=True), tmp_path / "at_once", quiet=True)
    assert later["metrics"] == at_once["metrics"] and set(later["metrics"]) == {"val", "test"}
    assert later["lineage"] == at_once["lineage"]


def test_another_logging_goes_on(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(loop, "preemption_notice", lambda: Asked(5))
    with pytest.raises(SystemExit):
        jaxfer.run(one_stage(), tmp_path, quiet=True)
    monkeypatch.undo()
    found = run_again(tmp_path, one_stage(log_every=1, save_every=0, eval_batch_size=4))
    assert found.found["last checkpoint"] == kill.ending(whole).found["last checkpoint"]
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if line["split"] == "train"]
    assert steps == [4, 5, 6, 7]  # the first mean has the losses of the sitting before in it


def test_another_experiment_is_refused(tmp_path, whole):
    folder = unfinished(whole, tmp_path / "run")
    before = sorted((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file())
    with pytest.raises(
        InputError, match=r"seed: 0 there, 3 here; stage\.train\.lr: 0\.001 there, 0\.5 here\); use another"
    ):
        jaxfer.run(one_stage(seed=3, lr=0.5), folder, quiet=True)
    assert sorted((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file()) == before


def test_a_folder_in_use_is_refused(tmp_path, whole):
    folder = unfinished(whole, tmp_path / "run")
    with locked(epath.Path(folder)), pytest.raises(InputError, match="is in use by another process"):
        run_again(folder)
    assert not kill.ending(whole).differences(run_again(folder))

"""The live line, the lines above it and a log, as they are printed."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from jaxfer.training.progress import Progress, Reporter, Status, Together, duration, short, speed

STATUS = Status(
    name="train",
    done=120,
    total=300,
    left="0:12 left",
    rate="15 steps/s",
    loss="loss 0.4065",
    scores=("val balanced_accuracy 0.99", "val 0.99"),
)
EVALUATION = {"step": 4, "stage": "train", "split": "val", "accuracy": 0.75, "loss": 0.5, "seconds": 3.25}


class Clock:
    """A second for each reading."""

    def __init__(self, pace: float = 1.0):
        self.now, self.pace = 0.0, pace

    def __call__(self) -> float:
        self.now += self.pace
        return self.now


def console(columns: int | None, **options) -> Console:
    """Of a terminal of so many columns, or of a log, in memory."""
    terminal = {"force_terminal": columns is not None, "color_system": None, "width": columns, "height": 24}
    return Console(file=io.StringIO(), **{**terminal, **options})


def shown(status: Status, columns: int) -> str:
    plain = console(columns)
    plain.print(status)
    return plain.file.getvalue()


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (
            120,
            "train ━━━━━━━━━━━━━━────────────────────── 120/300  40%  0:12 left  15 steps/s  loss 0.4065  "
            "val balanced_accuracy 0.99",
        ),
        (90, "train 120/300  40%  0:12 left  15 steps/s  loss 0.4065  val balanced_accuracy 0.99"),
        (80, "train ━━━━━───────── 120/300  40%  0:12 left  15 steps/s  loss 0.4065  val 0.99"),
        (60, "train 120/300  40%  0:12 left  loss 0.4065  val 0.99"),
        (46, "train 120/300  40%  0:12 left  loss 0.4065"),
        (40, "train ━━━────── 120/300  40%  0:12 left"),
        (28, "120/300  40%  0:12 left"),
        (20, "120/300  0:12 left"),
        (8, "120/300"),
    ],
)
def test_the_live_line_drops_what_tells_least(columns, text):
    assert shown(STATUS, columns) == text + "\n"
    assert len(text) < columns, "the last column stays free"


def test_the_live_line_of_a_long_run_fits_80_columns():
    long = STATUS._replace(name="a_stage_with_a_long_name", done=99999, total=1000000, left="3 d 04:05:06 left")
    assert shown(long, 80) == "a_stag…_name 99999/1000000  9%  3 d 04:05:06 left  loss 0.4065  val 0.99\n"


def test_ascii_alone_where_the_terminal_has_no_more(monkeypatch):
    monkeypatch.setattr(Console, "encoding", "ascii")
    long = STATUS._replace(name="a_stage_with_a_long_name", scores=("",))
    assert shown(long, 80).startswith("a_sta...name ######........... 120/300")


def reported(columns: int | None, **options) -> str:
    """What a run of four steps with an evaluation prints; its live line is drawn once, at the end."""
    out = console(columns, **options)
    reporter = Reporter(console=out, clock=Clock())
    reporter.begin(4, 0, name="train", metric="accuracy")
    if reporter._live is not None:
        reporter._live.auto_refresh = False
    for step in range(1, 5):
        reporter.step(step, "train")
        reporter.line({**EVALUATION, "step": step, "split": "train", "loss": 1 / step, "grad_norm": 12345.6})
    reporter.line(EVALUATION)
    reporter.say("a note that is as long as a line of forty columns")
    reporter.warn("a warning")
    reporter.close()
    return out.file.getvalue()


LOG = """\
train train step 1: accuracy 0.75  loss 1  seconds 3.25  grad_norm 12346
train train step 4: accuracy 0.75  loss 0.25  seconds 3.25  grad_norm 12346
train val step 4: accuracy 0.75  loss 0.5  seconds 3.25
a note that is as long as a line of forty columns
warning: a warning
"""


def test_a_log_has_lines_about_training_at_times_and_every_evaluation(monkeypatch):
    """Ten seconds have passed between none of the steps, so that only the first and the last are told."""
    assert reported(None) == LOG
    monkeypatch.setenv("TERM", "dumb")
    assert reported(80) == LOG, "a terminal that can't go back"


def test_a_line_has_the_metrics_of_probabilities_only_where_one_is_watched():
    out = console(None)
    reporter = Reporter(console=out, clock=Clock())
    reporter.begin(4, 0, metric="auroc")
    reporter.line({"step": 4, "stage": "train", "split": "val", "mcc": 0.5, "auroc": 0.75, "ece": 0.1, "a/brier": 0.2})
    assert out.file.getvalue() == "train val step 4: mcc 0.5  auroc 0.75\n"


def test_a_log_tells_the_time_left_every_ten_seconds():
    out, clock = console(None), Clock(2.0)
    reporter = Reporter(console=out, clock=clock)
    reporter.begin(1000, 0, metric="accuracy")
    for step in range(1, 8):
        reporter.step(step, "train")
        reporter.line({"step": step, "stage": "train", "split": "train", "loss": 0.5})
    # Two readings of two seconds a step: a line after 8 s is too early, one after 12 s is not.
    assert out.file.getvalue().splitlines() == [
        "train train step 1: loss 0.5",
        "train train step 4: loss 0.5  (0%, 1:06:24 left)",
        "train train step 7: loss 0.5  (0%, 1:06:12 left)",
    ]


def test_the_time_left_is_without_compiling():
    """A second a step: the first compiled for 20 s, an evaluation after the third for 30 s."""
    reporter = Reporter(console=console(None), clock=iter((0.0, 21.0, 22.0, 23.0, 54.0, 55.0)).__next__)
    reporter.begin(100, 0)
    for step, compiled in ((1, 20.0), (2, 20.0), (3, 20.0), (4, 50.0), (5, 50.0)):
        reporter.step(step, "train", compiled)
    assert (reporter._status.left, reporter._status.rate) == ("1:35 left", "1 steps/s")


def test_evaluations_stay_on_the_screen_above_the_live_line():
    drawn = reported(40).removeprefix("\x1b[?25l").removesuffix("\x1b[?25h")  # hides and shows the cursor
    cleared = "\r\x1b[2K"
    assert [line.split(cleared)[-1] for line in drawn.rstrip("\n").split("\n")] == [
        "train val step 4: accuracy 0.75",
        "  loss 0.5  seconds 3.25",
        "a note that is as long as a line of",
        "  forty columns",
        "warning: a warning",
        "train 4/4  100%  in 0:04  loss 0.25",
    ]


def test_a_warning_of_a_sweeps_run_is_printed_above_the_sweeps_live_line(capsys):
    out = console(80)
    sweep = Reporter(console=out)
    sweep.begin(3, 0)
    Reporter(quiet=True).warn("of a run")
    sweep.close()
    assert "\x1b[?25lwarning: of a run\n" in out.file.getvalue() and capsys.readouterr().err == ""
    Reporter(quiet=True).warn("of another")
    assert capsys.readouterr().err == "warning: of another\n"


def test_the_result_reaches_its_file_while_the_live_line_is_shown(capsys):
    reporter = Reporter(console=console(80))
    reporter.begin(3, 0)
    print("a method's own line")
    reporter.close()
    assert capsys.readouterr().out == "a method's own line\n"


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"])
def test_a_pipe_gets_no_control_codes(variable, monkeypatch, capsys):
    monkeypatch.setenv(variable, "1")
    reporter = Reporter()
    reporter.begin(4, 0)
    reporter.step(1, "train")
    reporter.line(EVALUATION)
    reporter.close()
    assert capsys.readouterr().err == "train val step 4: accuracy 0.75  loss 0.5  seconds 3.25\n"


def test_without_colours_the_live_line_has_none(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    plain = console(80, color_system="truecolor")
    plain.print(STATUS)
    assert ";5;" not in plain.file.getvalue() and "[38" not in plain.file.getvalue()


def test_a_sweep():
    def told(columns):
        out = console(columns)
        reporter = Reporter(console=out, clock=Clock())
        reporter.begin(3, 0)
        reporter.cell(1, "probe-0", "val accuracy 0.500", "best probe-0 0.500", 95.0)
        reporter.cell(2, "probe-1", "failed: OSError", "1 failed · best probe-0 0.500", 40.0)
        reporter.cell(3, "probe-2", "val accuracy 0.250", "1 failed", 0.0, plain=False)
        return reporter, out.file.getvalue()

    _, log = told(None)
    assert log == (
        "[1/3] probe-0: val accuracy 0.500 · best probe-0 0.500 · about 1:35 left\n"
        "[2/3] probe-1: failed: OSError · 1 failed · best probe-0 0.500 · about 0:40 left\n"
    )
    reporter, screen = told(80)
    reporter.close()
    assert "[1/3] probe-0: val accuracy 0.500\n" in screen and "[2/3] probe-1: failed: OSError\n" in screen
    assert shown(reporter._status, 80) == f"{'━' * 40} 3/3  100%  in 0:01  1 failed\n"


def grouped(columns: int | None, pace: float = 1.0) -> tuple[Reporter, str]:
    """What a sweep prints of 9 members that are evaluated at 100 and 200 of 300 steps, and of its first cell."""
    out = console(columns)
    reporter = Reporter(console=out, clock=Clock(pace))
    reporter.begin(20, 0)
    if reporter._live is not None:
        reporter._live.auto_refresh = False
    for step, scores in ((0, ()), (50, ()), (100, (0.5, 0.75, 0.625)), (200, (0.625, 0.875, 0.75))):
        progress = Progress(step, 300, "accuracy", scores, evaluated=bool(scores))
        reporter.together("a", "9 x probe", progress, maximize=True)
    reporter.together("b", "6 x lora", Progress(0, 300), maximize=False)
    reporter.cell(1, "full-0", "val accuracy 0.500", "best full-0 0.500", 95.0)
    return reporter, out.file.getvalue()


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (
            120,
            [
                "9 x probe ━━━━━━━━━━━━━━━━━━━━━━━──────────── 200/300  66%  0:01 left  75 steps/s  "
                "val accuracy 0.875 best, 0.75 median",
                "6 x lora ──────────────────────────────────────── 0/300  0%  starting",
            ],
        ),
        (
            80,
            [
                "9 x probe 200/300  66%  0:01 left  75 steps/s  val 0.875 best, 0.75 median",
                "6 x lora ──────────────────────────────────────── 0/300  0%  starting",
            ],
        ),
        (40, ["9 x probe 200/300  66%  0:01 left", "6 x lora ────────── 0/300  0%  starting"]),
    ],
)
def test_a_group_has_a_line_above_the_sweeps(columns, lines):
    reporter, _ = grouped(columns)
    found = shown(reporter._lines(), columns).splitlines()
    assert found[:2] == lines and "1/20  5%  about 1:35 left" in found[2] and len(found) == 3
    assert all(len(line) < columns for line in found), "the last column stays free"
    reporter.together("a", "9 x probe", None, maximize=True)
    reporter.together("b", "6 x lora", None, maximize=False)
    assert shown(reporter._lines(), columns).splitlines() == found[2:]
    reporter.close()


def test_a_log_tells_of_a_group_at_evaluations_and_at_most_every_ten_seconds():
    ended = "[1/20] full-0: val accuracy 0.500 · best full-0 0.500 · about 1:35 left\n"
    first = "9 x probe val step 100: accuracy 0.75 best  0.625 median  (33%, "
    assert grouped(None)[1] == f"{first}0:04 left)\n{ended}"
    _, slow = grouped(None, 10.0)
    assert (
        slow
        == f"{first}0:40 left)\n9 x probe val step 200: accuracy 0.875 best  0.75 median  (66%, 0:13 left)\n{ended}"
    )


def test_the_progress_of_members_is_told_as_one():
    told, clock = [], Clock(0.04)
    together = Together(told.append, clock=clock)
    members = [together.reporter() for _ in range(3)]
    for member in members:
        member.begin(4, 0, metric="accuracy")
    assert told == [Progress(0, 4, "accuracy")]
    members[2].close()  # it diverged
    for step in (1, 2, 3):
        for member in members[:2]:
            member.step(step, "train")
    assert [progress.step for progress in told] == [0, 0, 2], "at most every tenth of a second; the mean, rounded down"
    for member, score in zip(members, (0.5, 0.75), strict=False):
        member.line({**EVALUATION, "split": "train"})
        member.line({**EVALUATION, "step": 3, "accuracy": score})
    assert told[-1] == Progress(3, 4, "accuracy", (0.5, 0.75), True) and len(told) == 4
    members[0].step(4, "train")
    members[1].step(4, "train")
    finished = together.reporter()
    finished.begin(4, 4, metric="accuracy")
    finished.close()


def test_what_members_compile_after_their_first_steps_is_added_up():
    told = []
    together = Together(told.append, clock=Clock(1.0))
    first, second = together.reporter(), together.reporter()
    for member in (first, second):
        member.begin(9, 0, metric="accuracy")
    first.step(1, "train", 5.0)
    second.step(1, "train", 40.0)  # resumed: most of it is an earlier attempt's
    for step, seconds in ((2, 0.0), (3, 2.5)):
        first.step(step, "train", 5.0 + seconds)
        second.step(step, "train", 40.0 + seconds / 2)
    assert [progress.compiled for progress in told[4:]] == [0.0, 0.0, 2.5, 3.75]
    out = console(None)
    reporter = Reporter(console=out, clock=iter((0.0, 1.0, 2.0, 33.0)).__next__)
    reporter.begin(1, 0)
    for step, compiled in ((10, 0.0), (20, 0.0), (30, 30.0)):
        reporter.together("a", "2 x full", Progress(step, 100, compiled=compiled), maximize=True)
    assert reporter._together["a"].status.rate == "10 steps/s"


def test_a_member_resumed_after_its_last_step_is_not_part_of_its_group():
    """It was killed before the evaluation that ends it, and evaluates while the others train, or alone."""
    told = []
    together = Together(told.append, clock=Clock(1.0))
    over, alive = together.reporter(), together.reporter()
    over.begin(4, 4, metric="accuracy")
    over.line({**EVALUATION, "step": 4})
    assert told == []
    alive.begin(4, 3, metric="accuracy")
    over.line({**EVALUATION, "step": 4})
    alive.line({**EVALUATION, "step": 4, "accuracy": 0.5})
    assert [(progress.step, progress.scores) for progress in told] == [(3, ()), (3, (0.5,))]


def test_silenced_it_only_warns(capsys):
    reporter = Reporter(quiet=True)
    reporter.begin(4, 0)
    reporter.line(EVALUATION)
    reporter.say("a note")
    reporter.warn("a warning :warning: [bold]")
    reporter.close()
    assert capsys.readouterr().err == "warning: a warning :warning: [bold]\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (7385, "2:03:05"), (273600, "3 d 04:00:00")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_numbers_and_speeds():
    assert [short(v) for v in (0.99, 12345.678, 9999.7, 1e-5, 1e20)] == ["0.99", "12346", "10000", "1e-05", "1e+20"]
    assert [speed(pace) for pace in (2.4, 0.125, 0.004, 63.0)] == [
        "2.4 s/step",
        "8 steps/s",
        "250 steps/s",
        "63 s/step",
    ]

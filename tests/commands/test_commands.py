"""The shell around the functions: parsing, exit codes, help, and what `show` prints."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest

import jaxfer
from jaxfer import commands
from jaxfer.commands import shared
from jaxfer.errors import InputError, Interrupted, NonFiniteLoss, Preempted
from jaxfer.exports.predict import Prediction
from jaxfer.terminal import Page
from tests.runs.folders import write

CONFIG = """
import jaxfer.config


def get_config(arg=""):
    config = jaxfer.config.base()
    config.model = {"name": "resnet", "stage_sizes": (1,), "width": 4, "stem": "cifar", "image": (8, 8, 3)}
    config.data = {"source": "synthetic", "image": (8, 8, 3), "examples": 16, "classes_count": 2}
    config.update(batch_size=4, steps=6, lr=1e-3, weight_decay=0.01, layer_decay=0.5)
    return config
"""
METRICS = {"val": {"accuracy": 0.5, "loss": 1.25}, "test": {"accuracy": 1.0, "loss": 0.125}}
RESULT = {
    "metrics": METRICS,
    "cost": {"params_trainable": 1234, "params_total": 56789, "seconds": 3.21},
    "steps": 60,
    "checkpoint_step": 60,
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A tiny config, mine.py, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CONFIG)
    return "mine.py"


@pytest.fixture
def calls(monkeypatch):
    """What the commands hand to the functions of the same names."""
    found = []
    monkeypatch.setattr("jaxfer.training.loop.run", lambda *a, **k: found.append(("run", a, k)) or RESULT)
    monkeypatch.setattr(
        "jaxfer.training.evaluation.evaluate", lambda *a, **k: found.append(("eval", a, k)) or METRICS["val"]
    )
    return found


def test_overrides_are_split_from_the_rest():
    argv = ["run", "a.py", "--config.model.name=vit", "--workdir=x", "--config.init=run:a=b", "--config.freeze="]
    overrides, rest = commands._overrides(argv)
    assert overrides == {"model.name": "vit", "init": "run:a=b", "freeze": ""}
    assert rest == ["run", "a.py", "--workdir=x"]


@pytest.mark.parametrize(
    "argv", [["--help"], ["run", "--help"], ["show", "-h"], ["eval", "--help"], ["sweep", "--help"]]
)
def test_help(argv, capsys):
    with pytest.raises(SystemExit) as done:
        commands.main(argv)
    out, err = capsys.readouterr()
    assert (done.value.code, err) == (0, "")
    assert out.startswith("usage: jaxfer")


def test_help_names_every_command_and_how_to_override(capsys):
    for argv, fragments in [
        (["--help"], ("run", "show", "eval", "sweep", "COMMAND", "train, resume or extend a run")),
        (["run", "--help"], ("--workdir", "default runs/CONFIG/ARG", "FILE.py:ARG", "--config.field=value")),
        (["eval", "--help"], ("--split", "--checkpoint", "result (default), last, best, or a kept step")),
    ]:
        with pytest.raises(SystemExit):
            commands.main(argv)
        out = " ".join(capsys.readouterr().out.split())
        for fragment in fragments:
            assert fragment in out


def test_version(capsys):
    with pytest.raises(SystemExit) as done:
        commands.main(["--version"])
    assert (done.value.code, capsys.readouterr().out) == (0, f"jaxfer {jaxfer.__version__}\n")


def test_help_does_not_wait_for_jax():
    code = "import sys, jaxfer.commands as c; c._parser(); sys.exit('jax' in sys.modules or 'flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("spec", "workdir"),
    [
        ("configs/digits.py", "runs/digits/main"),
        ("configs/digits.py:lora", "runs/digits/lora"),
        ("digits.py:lora,tiny", "runs/digits/lora-tiny"),
        ("digits.py:", "runs/digits/main"),
    ],
)
def test_default_workdirs_are_siblings(spec, workdir, monkeypatch):
    """`init=sibling:NAME` finds the run of another argument of the same file."""
    monkeypatch.setitem(vars(jaxfer), "load", lambda *_: None)
    monkeypatch.setitem(vars(jaxfer), "run", lambda _, folder: pytest.fail(folder))
    with pytest.raises(pytest.fail.Exception, match=f"^{workdir}$"):
        commands.main(["run", spec])


def test_workdir_as_given(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    for given, wanted in [("x/y", "x/y"), ("~/x", "/home/somebody/x"), ("gs://bucket/x", "gs://bucket/x")]:
        assert shared.workdir(commands._parser().parse_args(["run", "a.py", f"--workdir={given}"]), "main") == wanted


def test_run_calls_run_and_prints_the_result(config, calls, capsys):
    assert commands.main(["run", f"{config}:word", "--config.steps=3", "--config.model.width=8"]) == 0
    ((name, (given, workdir), keywords),) = calls
    assert (name, workdir, keywords) == ("run", "runs/mine/word", {})
    assert (given.steps, given.model.width) == (3, 8)
    assert capsys.readouterr().out.splitlines() == [
        "metric    val, step 60  test, step 60",
        "accuracy        0.5000         1.0000",
        "loss            1.2500         0.1250",
        "1,234 of 56,789 parameters trained, 60 steps, 3.2 s; everything is in runs/mine/word",
    ]


def test_a_classification_is_drawn_and_its_run_outlives_the_picture(config, calls, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr("jaxfer.figures.confusion.of_run", drawn.append)
    monkeypatch.setitem(RESULT, "report", {"val": {}})
    assert commands.main(["run", config]) == 0 and [folder.name for folder in drawn] == ["main"]
    monkeypatch.setattr("jaxfer.figures.confusion.of_run", lambda folder: 1 / 0)
    assert commands.main(["run", config]) == 0
    warning = "warning: the confusion matrix was not drawn (division by zero); the run is complete"
    assert capsys.readouterr().err.splitlines()[-1] == warning


def test_run_draws_its_curves_last_and_a_failure_is_one_warning(config, calls, capsys, tmp_path, monkeypatch):
    folder = write(tmp_path / "runs" / "mine" / "main")
    assert commands.main(["run", config]) == 0
    assert (folder / "curves.png").exists() and capsys.readouterr().err.count("warning") == 0
    monkeypatch.setattr("jaxfer.figures.curves.draw", lambda folder: 1 / 0)
    assert commands.main(["run", config]) == 0
    out, err = capsys.readouterr()
    assert "accuracy        0.5000" in out
    assert err.endswith("warning: curves.png was not drawn (division by zero); the run is complete\n")


def test_eval_calls_evaluate_and_prints_the_metrics(calls, capsys):
    argv = ["eval", "runs/a", "--split=test", "--checkpoint=best", "--predictions=a.csv", "--config.data.source=npz"]
    assert commands.main(argv) == 0
    given = {"split": "test", "checkpoint": "best", "predictions": "a.csv"}
    keywords = {**given, "overrides": {"data.source": "npz"}}
    assert calls == [("eval", ("runs/a",), keywords)]
    assert capsys.readouterr().out == "test: accuracy 0.5000  loss 1.2500\n"


def test_on_a_terminal_lines_break_between_words(config, calls, capsys, monkeypatch):
    monkeypatch.setattr("jaxfer.terminal.page_of", lambda stream: Page(40))
    assert commands.main(["run", config, "--nocache"]) == 0
    assert commands.main(["eval", "runs/a", "--nocache"]) == 0
    assert commands.main(["run", config, "--nonsense"]) == 2
    assert capsys.readouterr() == (
        "metric    val, step 60  test, step 60\n"
        "accuracy        0.5000         1.0000\n"
        "loss            1.2500         0.1250\n"
        "1,234 of 56,789 parameters trained, 60\n  steps, 3.2 s; everything is in\n  runs/mine/main\n"
        "val: accuracy 0.5000  loss 1.2500\n",
        "error: unknown argument '--nonsense';\n  overrides are written\n  --config.field=value\n",
    )


NAME = "an_image_in_a_folder_0001_left_eye.png"
PREDICTED = {
    120: f"a.png                                   effusion;pneumonia  0.9000 0.8000\n{NAME}  -\n",
    80: f"a.png                                   effusion;pneumonia  0.9000 0.8000\n{NAME}  -\n",
    40: "a.png                  effusion;  0.9000\n                       pneumonia  0.8000\n"
    "an_image_i…ft_eye.png  -\n",
}


@pytest.mark.parametrize("columns", PREDICTED)
def test_predictions_fit_the_terminal(columns, capsys, monkeypatch):
    answers = [
        Prediction(input="a.png", labels=("effusion", "pneumonia"), probabilities={"effusion": 0.9, "pneumonia": 0.8}),
        Prediction(input=NAME, labels=(), probabilities={"effusion": 0.1, "pneumonia": 0.2}),
    ]
    monkeypatch.setattr("jaxfer.exports.predict.load_model", lambda source: types.SimpleNamespace(notes=()))
    monkeypatch.setattr("jaxfer.exports.predict.predict", lambda *a, **k: answers)
    monkeypatch.setattr("jaxfer.terminal.page_of", lambda stream: Page(columns))
    assert commands.main(["predict", "runs/a", "a.png", NAME, "--nocache"]) == 0
    assert capsys.readouterr().out == PREDICTED[columns]


def test_eval_defaults(calls):
    assert commands.main(["eval", "runs/a"]) == 0
    defaults = {"split": "val", "checkpoint": "result", "predictions": None, "overrides": {}}
    assert calls == [("eval", ("runs/a",), defaults)]


@pytest.mark.parametrize(
    ("raised", "exit_code", "message"),
    [
        (InputError("wrong"), 2, "error: wrong\n"),
        (InputError("two\n lines"), 2, "error: two lines\n"),
        (NonFiniteLoss("at step 3"), 3, "error: at step 3\n"),
        (Preempted("saved"), 75, "saved\n"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again, which goes on from what is saved\n"),
        (Interrupted("interrupted: saved"), 130, "interrupted: saved\n"),
        (
            SystemExit(0),
            2,
            "error: a file that the command runs (a method or a source) raised SystemExit(0); "
            "raise another exception there\n",
        ),
    ],
    ids=["input", "several lines", "diverged", "preempted", "interrupted", "interrupted and saved", "exit"],
)
def test_exit_codes(config, monkeypatch, capsys, raised, exit_code, message):
    def fail(*_, **__):
        raise raised

    monkeypatch.setattr("jaxfer.training.loop.run", fail)
    assert commands.main(["run", config]) == exit_code
    assert capsys.readouterr() == ("", message)


def test_show_by_hand(config, capsys):
    assert commands.main(["show", config]) == 0
    out, err = capsys.readouterr()
    data, _, stages = out.partition("\n\n")
    assert data.splitlines()[:2] == [
        "data: synthetic · images of 2 classes",
        "  class     train     val    test",
    ]
    lines = stages.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if "/" in line.split()[0]}
    assert (lines[0], err) == ("stage 'train': method full, 6 steps of 4 examples", "")
    assert lines[1].split() == ["parameter", "shape", "group", "lr", "weight", "decay"]
    # Two units lie below the head: 1e-3, 1e-3 / 2, 1e-3 / 4; biases and norms do not decay.
    assert rows["head/out/kernel"] == ["4x2", "head", "0.001", "0.01"]
    assert rows["head/out/bias"] == ["2", "head", "0.001", "0"]
    assert rows["block_0/conv_1/kernel"] == ["3x3x4x4", "backbone", "0.0005", "0.01"]
    assert rows["stem/conv/kernel"] == ["3x3x3x4", "backbone", "0.00025", "0.01"]
    assert rows["stem/norm/scale"] == ["4", "backbone", "0.00025", "0"]
    # stem 108 + 8, block 2 x (144 + 8), head 8 + 2; Adam: two moments, and a step count for each of two groups.
    assert lines[-1].startswith("trainable 430 of 430 parameters · optimizer 3,448 bytes · step ")


def test_show_marks_what_is_frozen(config, capsys):
    argv = ["show", config, "--config.method=probe", "--config.rates.head=0.5", "--config.lr=none"]
    assert commands.main(argv) == 0
    lines = capsys.readouterr().out.partition("\n\n")[2].splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert rows["stem/conv/kernel"] == ["3x3x3x4", "FROZEN", "-", "-"]
    assert rows["head/out/kernel"] == ["4x2", "head", "0.5", "0.01"]
    # The head's 10 values: two moments and one count.
    assert lines[-1].startswith("trainable 10 of 430 parameters · optimizer 84 bytes · step ")


def test_show_has_a_table_for_each_stage(config, capsys):
    argv = ["show", config, "--config.stages=a,b", "--config.stage.a.method=probe", "--config.stage.a.steps=2"]
    assert commands.main(argv) == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stage ")]
    assert heads == ["stage 'a': method probe, 2 steps of 4 examples", "stage 'b': method full, 6 steps of 4 examples"]


def test_as_a_module_and_into_a_closed_pipe(config):
    argv = [sys.executable, "-m", "jaxfer", "show", config, "--config.method=probe"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = subprocess.run(argv, stdout=pipe, stderr=subprocess.PIPE, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")

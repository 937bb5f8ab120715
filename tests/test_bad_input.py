"""Everything that a user can get wrong: one line with what was expected, what was found and the fix; exit code 2."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import jaxfer
import jaxfer.parallel.placement
from jaxfer.commands import main
from tests.bad_input_cases import COMMANDS, CONFIG, FILES, LINES, NEW


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a config, data of every kind of wrong, a finished run and an unfinished one."""
    folder = tmp_path_factory.mktemp("bad_input")
    (folder / "c.py").write_text(CONFIG.format(line=""))
    (folder / "file").write_text("a file")
    data = folder / "data"
    data.mkdir()
    (data / "text.npz").write_text("no archive")
    images, labels = np.zeros((20, 8, 8, 3), np.uint8), np.arange(20) % 2
    np.savez(data / "label.npz", train_image=images, train_label=labels, val_image=images[:2], val_label=labels[:2] + 6)
    np.savez(data / "float.npz", train_image=images, train_label=labels / 2)
    np.savez(data / "scaled.npz", train_image=images / 255, train_label=labels)
    for name in ("unreadable/a", "unreadable/b", "empty/a", "empty/b"):
        (data / name).mkdir(parents=True)
    Image.fromarray(images[0]).save(data / "empty/a/0.png")
    Image.fromarray(images[0]).save(data / "unreadable/b/0.png")
    (data / "unreadable/a/0.png").write_text("no image")
    (data / "questions").mkdir()
    question = '{"id": "q1", "question": "What?", "context": "A film.", "answers": [{"text": "film", "start": 3}]}'
    (data / "questions/train.jsonl").write_text(question)
    (data / "answers").mkdir()
    (data / "answers/train.jsonl").write_text(question.replace(": 3", ": 2"))
    np.savez(data / "none.npz", train_image=images[:0], train_label=labels[:0])
    jaxfer.run(jaxfer.load(str(folder / "c.py")), folder / "runs/done", quiet=True)
    shutil.copytree(folder / "runs/done", folder / "runs/unfinished")
    (folder / "runs/unfinished/result.json").unlink()
    return folder


@pytest.fixture
def refused(place, monkeypatch, capsys):
    """Runs a command in that folder; returns its one line, after checking that nothing else has happened."""

    def check(argv: list[str]) -> str:
        before = _tree(place)
        assert main(argv) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
        assert "Traceback" not in err
        assert _tree(place) == before
        return err

    def training(*_):
        raise AssertionError("a training step was compiled")

    monkeypatch.chdir(place)
    monkeypatch.delenv("JAXFER_DATA", raising=False)
    monkeypatch.setattr(jaxfer.training.programs, "_train_program", training)
    return check


def _tree(folder) -> dict[str, tuple[int, int]]:
    files = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (0, 0) for path in files}


def _contains(message: str, fragments: list[str]) -> None:
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize("case", COMMANDS)
def test_command(refused, case):
    command, fragments = COMMANDS[case]
    _contains(refused(_argv(command)), fragments)


@pytest.mark.parametrize("case", LINES)
def test_line_of_a_config_file(refused, place, case):
    line, fragments = LINES[case]
    # A name of its own: Python's bytecode cache can't tell two files of one second and one size apart.
    file = f"line_{list(LINES).index(case)}.py"
    (place / file).write_text(CONFIG.format(line=line))
    _contains(refused(["show", file]), fragments)


@pytest.mark.parametrize("case", FILES)
def test_config_file(refused, place, case):
    text, fragments = FILES[case]
    file = f"file_{list(FILES).index(case)}.py"
    (place / file).write_text(text)
    _contains(refused(["show", file]), fragments)


@pytest.mark.system
@pytest.mark.parametrize(
    ("command", "fragments"),
    [
        ("show c.py --config.freeze=blok_0/.*", ["nearest: 'block_0/.*' (6 leaves)"]),
        (
            "run c.py --workdir=runs/new --config.batch_size=6 --config.parallel.devices=4",
            ["6 examples can't be split over 4 devices"],
        ),
        ("show whole.py", ["cannot be read as a config file"]),
    ],
)
def test_as_a_process(place, command, fragments):
    (place / "whole.py").write_text("def get_config(:")
    done = subprocess.run([sys.executable, "-m", "jaxfer", *_argv(command)], cwd=place, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    _contains(done.stderr, fragments)
    assert not (place / "runs/new").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "runs/x"),
            "error: 'runs/x' can't be used (Permission denied); correct the path or its permissions\n",
        ),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/metrics.jsonl"),
            "error: 'runs/x/metrics.jsonl' can't be written (No space left on device); free some space, then run the "
            "same command again: files already saved are intact\n",
        ),
        (
            ValueError("RESOURCE_EXHAUSTED: Error writing local file: No space left on device [os_error_code='28']"),
            "error: files can't be written (No space left on device); free some space, then run the same command "
            "again: files already saved are intact\n",
        ),
        (
            MemoryError("Unable to allocate 2.79 TiB\nfor an array"),
            "error: out of memory (Unable to allocate 2.79 TiB); "
            "lower config.batch_size, or make the model or the data smaller\n",
        ),
    ],
)
def test_what_the_machine_refuses(refused, monkeypatch, error, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("jaxfer.training.loop.run", fail)
    assert refused(["run", "c.py", NEW]) == message


def test_a_bug_keeps_its_traceback(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr("jaxfer.training.summary.show", lambda *of: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["show", "c.py"])


def _argv(command: str) -> list[str]:
    # Quotes belong to the values here; a lone '' is the empty word.
    return ["" if word == "''" else word for word in command.split()]

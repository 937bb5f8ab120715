"""The files of a run: whole or absent whatever happens, and owned by one experiment and one process."""

from __future__ import annotations

import json
import logging
import os

import pytest
from etils import epath

from jaxfer import files, json_files
from jaxfer.config import resolve
from jaxfer.errors import InputError
from jaxfer.runs import seal
from jaxfer.runs.folder import check_owner, locked, read_result, stored_experiment
from jaxfer.runs.metrics import MetricsLog, read_metrics
from tests import store
from tests.experiments import tiny_config

LINES = [
    {"step": 1, "split": "train", "loss": 0.1 + 0.2, "seconds": 1.5},
    {"step": 2, "split": "train", "loss": 1e-45, "seconds": 2.5},
    {"step": 2, "split": "val", "loss": 2 / 3, "seconds": 2.75},
]


@pytest.fixture
def disk(tmp_path):
    return epath.Path(tmp_path)


@pytest.fixture(params=["disk", "store"])
def folder(request, tmp_path):
    """A run's folder on a disk, and in an object store."""
    if request.param == "disk":
        return epath.Path(tmp_path)
    store.register(tmp_path)
    found = epath.Path("s3://bucket/run")
    found.mkdir(parents=True, exist_ok=True)
    return found


def write_lines(folder):
    log = MetricsLog(folder)
    for line in LINES:
        log.write(line)
    log.sync()
    return log


def test_metrics_are_read_as_written(folder):
    assert read_metrics(folder / "metrics.jsonl") == []
    write_lines(folder)
    assert read_metrics(folder / "metrics.jsonl") == LINES


def test_a_torn_last_line_is_left_out(disk):
    """Cut at every byte of the last line, the others are read; with its last brace it is whole."""
    write_lines(disk)
    path = disk / "metrics.jsonl"
    text = path.read_text()
    before = text.index("\n", text.index("\n") + 1) + 1
    for cut in range(before, len(text) + 1):
        path.write_text(text[:cut])
        assert read_metrics(path) == (LINES if cut >= len(text) - 1 else LINES[:2]), cut


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (1, 1), (2, 3), (3, 3)])
def test_rewind_drops_what_came_after_the_checkpoint(disk, step, kept):
    log = write_lines(disk)
    path = disk / "metrics.jsonl"
    text = path.read_text()
    path.write_text(text + '{"step": 3, "split": "tr')
    log.rewind(step)
    assert path.read_text() == "".join(text.splitlines(keepends=True)[:kept])
    log.write({"step": 9})
    assert read_metrics(path) == [*LINES[:kept], {"step": 9}]


def test_in_a_store_every_save_is_an_object_of_its_own(tmp_path):
    store.register(tmp_path)
    folder = epath.Path("s3://bucket/run")
    for line in LINES:
        log = MetricsLog(folder)
        log.write(line)
        assert read_metrics(folder / "metrics.jsonl") == LINES[: LINES.index(line)]
        log.sync()
    assert sorted(p.name for p in (tmp_path / "bucket" / "run" / "metrics").iterdir()) == [
        "000000.jsonl",
        "000001.jsonl",
        "000002.jsonl",
    ]
    before = [p.read_bytes() for p in sorted((tmp_path / "bucket" / "run" / "metrics").iterdir())]
    MetricsLog(folder).rewind(2)
    assert not list((tmp_path / "bucket" / "run" / "metrics").iterdir())
    assert read_metrics(folder / "metrics.jsonl") == LINES
    for i, content in enumerate(before):  # as a kill between the two leaves it
        (tmp_path / "bucket" / "run" / "metrics" / f"{i:06d}.jsonl").write_bytes(content)
    assert read_metrics(folder / "metrics.jsonl") == LINES


def test_rewind_begins_an_empty_log(folder):
    MetricsLog(folder).rewind(0)
    assert (folder / "metrics.jsonl").read_text() == ""


def test_a_write_that_breaks_off_leaves_the_old_file(disk, monkeypatch):
    path, whole = disk / "result.json", type(disk).write_bytes
    files.write_json(path, {"steps": 1})

    def half(self, data):
        whole(self, data[: len(data) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(type(disk), "write_bytes", half)
    with pytest.raises(OSError, match="disk full"):
        files.write_json(path, {"steps": 2})
    monkeypatch.undo()
    assert files.read_json(path) == {"steps": 1}
    files.write_json(path, {"steps": 3})
    assert json.loads(path.read_text()) == {"steps": 3}
    assert [entry.name for entry in disk.iterdir()] == ["result.json"]


@pytest.mark.parametrize("text", ["", '{"steps": 1', "\x00\x00"])
def test_a_file_that_is_no_json(folder, text):
    (folder / "result.json").write_text(text)
    with pytest.raises(InputError, match=r"result\.json: expected a JSON file of a run"):
        files.read_json(folder / "result.json")
    with pytest.raises(InputError, match=r"absent\.json: expected a JSON file of a run"):
        files.read_json(folder / "absent.json")


RESULT = {
    "metrics": {"val": {"accuracy": 0.5}},
    "cost": {"params_trainable": 1, "params_total": 2, "seconds": 0.5},
    "seed": 0,
    "steps": 4,
    "checkpoint_step": 4,
    "classes": ["a", "b"],
    "examples": {"train": 8},
    "lineage": {"init": "scratch", "sha256": "s", "data_sha256": "d"},
    "versions": {"jax": "0"},
}
WRONG = (None, True, [], {}, "x", -1, 1e308, [1, 2], {"a": 1}, {"a.b": 1})


def deep(levels=100_000):
    return "[" * levels


@pytest.mark.parametrize("text", ["null", "5", "[]", '"x"', "{}", deep(), '{"steps": "\\ud800"}'])
def test_a_file_of_a_run_that_is_no_object_or_lacks_fields(disk, text):
    for name, read in (("result.json", read_result), ("config.json", stored_experiment)):
        (disk / name).write_text(text)
        with pytest.raises(InputError, match=rf"{name}: .*; restore the file, or use another --workdir") as caught:
            read(disk)
        assert "\n" not in str(caught.value)


def test_a_result_is_checked_field_by_field(disk):
    """What is read of it afterwards needs no check: the class names, the steps, the ancestry."""
    files.write_json(disk / "result.json", RESULT)
    assert read_result(disk) == RESULT
    for name in RESULT:
        for wrong in (None, True, "x", 1e308, [1, 2], {"a": 1} if name != "examples" else {"a": "b"}):
            if name == "versions" and isinstance(wrong, dict):
                continue  # a version may be anything
            files.write_json(disk / "result.json", {**RESULT, name: wrong})
            with pytest.raises(InputError, match=rf"result\.json: {name}.*expected"):
                read_result(disk)
    files.write_json(disk / "result.json", {name: value for name, value in RESULT.items() if name != "steps"})
    with pytest.raises(InputError, match=r"result\.json: steps: expected int, found nothing"):
        read_result(disk)


def test_a_stored_config_is_read_or_refused_in_a_line(disk):
    content = json.loads(json.dumps(resolve(tiny_config("vit_cls", method="lora")).to_dict()))
    files.write_json(disk / "config.json", content)
    assert stored_experiment(disk).to_dict() == resolve(tiny_config("vit_cls", method="lora")).to_dict()
    for name in content:
        for wrong in WRONG:
            files.write_json(disk / "config.json", {**content, name: wrong})
            try:
                stored_experiment(disk)
            except InputError as error:
                assert str(error).startswith(f"{disk / 'config.json'}: ") and "\n" not in str(error)


def test_a_selection_names_what_it_opens(disk):
    (disk / "cells" / "one").mkdir(parents=True)
    files.write_json(disk / seal.PROTOCOL, {})
    for wrong in WRONG:
        files.write_json(disk / seal.SELECTION, {"opened": wrong} if wrong != [] else {})
        with pytest.raises(InputError, match=r"selection\.json: opened.*: expected"):
            seal.check(disk / "cells" / "one")


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"config\.json: not readable as JSON \(not a regular file\); mend it"):
        json_files.read(epath.Path(tmp_path / "config.json"), fix="mend it")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b'{"step": "2", "split": "val"}\n', "step: expected int, found '2'"),
        (b'{"split": "val"}\n', "step: expected int, found nothing"),
        (b"[1]\n", "line 4: expected a JSON object; remove that line"),
        (b"\xff\n", "line 4: expected a JSON object; remove that line"),
        (b"{\n", "line 4: expected a JSON object; remove that line"),
    ],
)
def test_a_damaged_line_of_metrics_stops_a_resumed_run(disk, damage, message):
    log, path = write_lines(disk), disk / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + damage + whole)
    with pytest.raises(InputError, match=rf"metrics\.jsonl: {message}"):
        log.rewind(2)
    assert path.read_bytes() == whole + damage + whole


def test_blank_lines_of_metrics_are_no_lines(disk):
    log, path = write_lines(disk), disk / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"\n", b"\n\n \n"))
    assert read_metrics(path) == LINES
    log.rewind(2)
    assert path.read_bytes() == whole


def own(folder, **fields):
    files.write_json(folder / "config.json", resolve(two_stages(**fields)).to_dict())


def two_stages(first=3, last=3, **fields):
    config = tiny_config("resnet_basic", stages=("first", "last"), **fields)
    config.stage.first = dict(method="probe", steps=first)
    config.stage.last = dict(method="full", steps=last)
    return config


def test_an_experiment_owns_its_folder(folder):
    check_owner(folder, resolve(two_stages()))  # nobody's yet
    own(folder)
    check_owner(folder, resolve(two_stages()))
    assert stored_experiment(folder) == resolve(two_stages())


@pytest.mark.parametrize(
    "changed", [{"last": 5}, {"log_every": 9}, {"save_every": 9}, {"eval_batch_size": 9}, {"test": True}], ids=str
)
def test_what_may_change(folder, changed):
    own(folder)
    check_owner(folder, resolve(two_stages(**changed)))


def test_devices_may_change(folder):
    own(folder)
    config = two_stages()
    config.parallel.update(mode="pmap", devices=2)
    check_owner(folder, resolve(config))


def test_what_may_not_change_is_listed(folder):
    own(folder)
    with pytest.raises(InputError) as refused:
        check_owner(folder, resolve(two_stages(first=4, seed=1, batch_size=4)))
    assert str(refused.value) == (
        f"{folder} holds a run of another config (seed: 0 there, 1 here; stage.first.batch_size: 8 there, 4 here; "
        "stage.first.steps: 3 there, 4 here; stage.last.batch_size: 8 there, 4 here); use another --workdir"
    )


def test_a_long_list_of_differences_is_cut(folder):
    own(folder)
    other = two_stages(lr=0.5, weight_decay=0.5, momentum=0.5, b2=0.5, clip=0.5)
    with pytest.raises(InputError, match=r"stage\.last\.b2: 0\.999 there, 0\.5 here;.*; and 2 more\)"):
        check_owner(folder, resolve(other))


def test_a_folder_is_for_one_process_at_a_time(disk):
    inner = disk / "run"
    with locked(inner):
        with pytest.raises(InputError, match="is in use by another process"), locked(inner):
            pass
        with locked(disk / "other"):
            pass
    with locked(inner):
        pass


@pytest.mark.parametrize("name", ["a[b]", "a\\b", "caf\udce9", "a[/x]/run"])
def test_names_that_checkpoints_cannot_be_read_from_are_refused(disk, name):
    with pytest.raises(
        InputError, match=r"checkpoints can't be kept in '.*': expected a folder without .* in its path"
    ):
        files.opened(disk / name)
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("name", ["a[b", "a]b", "a{b}", "a*?", "a b", "café", "a%41#"])
def test_other_names_are_taken(disk, name):
    assert files.opened(str(disk / name)) == disk / name


def test_a_store_that_cannot_be_reached_is_one_line(monkeypatch, caplog):
    """Its package logs an error with a trace, and raises it."""

    class Unreachable:
        def __init__(self, folder):
            pass

        def exists(self):
            logging.getLogger("s3fs").error("Traceback")
            raise OSError("no route to host")

    monkeypatch.setattr(files.epath, "Path", Unreachable)
    with pytest.raises(InputError, match=r"s3://b/x can't be reached \(no route to host\)"):
        files.opened("s3://b/x")
    assert not caplog.records and not logging.getLogger("s3fs").filters

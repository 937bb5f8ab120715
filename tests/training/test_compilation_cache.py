"""A program read from the disk is the one that was compiled: the same bits, the same memory, nothing compiled again."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from jax._src import compilation_cache as of_jax

import jaxfer
from jaxfer import cache_folder, commands
from jaxfer.errors import InputError
from jaxfer.stages import example_batch
from jaxfer.step import make_train_step
from jaxfer.training import compilation_cache
from jaxfer.training.compilation_cache import Entries
from tests.experiments import backbone, batches, tiny_stage


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Begins without a folder, which a command of an earlier test may have left in use; undoes what `enable` sets."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setattr(of_jax, "get_file_cache", of_jax.get_file_cache)
    jax.config.update("jax_compilation_cache_dir", None)
    of_jax.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    of_jax.reset_cache()


def test_a_training_step_out_of_the_cache(tmp_path, restored):
    stage = tiny_stage("vit_cls", method="probe")
    shapes = (stage.blank(0), example_batch(stage.spec.port, stage.spec.task, stage.config.batch_size))

    def step():
        """Compiled as another process would, and what it makes of a State and a batch."""
        program = jax.jit(make_train_step(stage.spec), donate_argnums=0).lower(*shapes).compile()
        memory = program.memory_analysis()
        state, metrics = program(stage.enter(*backbone(stage), 0), batches(stage, 1)[0])
        leaves = jax.tree.leaves((state.replace(key=jax.random.key_data(state.key)), metrics))
        return [np.asarray(leaf) for leaf in leaves], (memory.alias_size_in_bytes, memory.temp_size_in_bytes)

    compilation_cache.enable(tmp_path)
    written = step()
    (file,) = tmp_path.glob("jit_train_step-*")
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    os.utime(file, (0, 0))
    read = step()
    assert file.stat().st_mtime > 0, "read"
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before
    assert read[1] == written[1]
    for ours, theirs in zip(read[0], written[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_torn_entry_is_compiled_again_and_replaced(tmp_path, restored):
    compilation_cache.enable(tmp_path)

    def double(x):
        return 2 * x + 1

    def call():
        return float(jax.jit(lambda x: double(x))(np.float32(3)))

    assert call() == 7
    (file,) = (entry for entry in tmp_path.iterdir() if "lambda" in entry.name)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache entry"):
        assert call() == 7
    assert file.stat().st_size > 100, "replaced"
    assert call() == 7


@pytest.mark.parametrize(("flags", "kept"), [((), True), (("--nocache",), False)])
def test_commands_keep_their_programs_unless_told_otherwise(tmp_path, monkeypatch, capsys, restored, flags, kept):
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path))
    found, cost = [], {"params_trainable": 1, "params_total": 1, "seconds": 1.0}
    result = {"metrics": {}, "cost": cost, "steps": 1, "checkpoint_step": 1}
    monkeypatch.setitem(vars(jaxfer), "load", lambda *_: None)
    monkeypatch.setitem(vars(jaxfer), "run", lambda *_: found.append(compilation_cache.in_use()) or result)
    assert commands.main(["run", "c.py", *flags]) == 0
    folder = str(compilation_cache.default())
    assert found == [folder if kept else None]
    line = f"compiled programs are kept in {folder} (--nocache disables it)\n"
    assert capsys.readouterr().err == (line if kept else "")


def test_where_programs_lie(monkeypatch, tmp_path):
    cores = f"{len(os.sched_getaffinity(0))}-cores"
    for given, home, expected in [
        ("off", "", None),
        ("/somewhere", "", f"/somewhere/xla/{cores}"),
        ("", "", f"{tmp_path}/.cache/jaxfer/xla/{cores}"),
        ("", "/elsewhere", f"/elsewhere/jaxfer/xla/{cores}"),
    ]:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("JAXFER_CACHE", given)
        monkeypatch.setenv("XDG_CACHE_HOME", home)
        assert compilation_cache.default() == (expected and Path(expected))


def test_without_a_home_nothing_is_kept_and_a_wrong_one_is_refused(monkeypatch, capsys):
    def nobody(_):
        raise RuntimeError("Could not determine home directory.")

    cache_folder.not_kept.cache_clear()
    monkeypatch.setattr(Path, "expanduser", nobody)
    monkeypatch.delenv("JAXFER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert compilation_cache.default() is None
    assert capsys.readouterr().err == (
        "warning: compiled programs, features and indexes of data are not kept: ~/.cache/jaxfer: no home folder; "
        "set HOME or JAXFER_CACHE\n"
    )
    monkeypatch.setenv("JAXFER_CACHE", "~nobody/x")
    with pytest.raises(InputError, match="JAXFER_CACHE: expected a folder or 'off', found '~nobody/x': no such user"):
        compilation_cache.default()


def test_a_full_disk_costs_the_cache_one_line(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache_folder.not_kept.cache_clear()
    monkeypatch.setattr(os, "replace", full)
    for key in "abc":
        Entries(tmp_path).put(key, b"value")
    assert list(tmp_path.iterdir()) == []
    line = f"warning: compiled programs are not kept: {tmp_path}: No space left on device\n"
    assert capsys.readouterr().err == line


def test_entries_are_whole_or_absent_and_a_bad_one_is_replaced(tmp_path, monkeypatch):
    entries = Entries(tmp_path)
    assert entries.get("a") is None
    entries.put("a", b"torn")
    entries.put("a", b"whole")
    assert (entries.get("a"), [file.name for file in tmp_path.iterdir()]) == (b"whole", ["a"])

    def full(*_):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        entries.put("b", b"value")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_the_least_recently_used_make_room(tmp_path):
    entries = Entries(tmp_path)
    for i, key in enumerate("abcd"):
        entries.put(key, b"12345")
        os.utime(tmp_path / key, (i, i))
    entries.get("a")
    cache_folder.make_room(tmp_path, 12)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "d"]


def test_no_folder_no_cache_and_no_harm(tmp_path, capsys, restored):
    cache_folder.not_kept.cache_clear()
    (tmp_path / "file").write_text("")
    compilation_cache.enable(tmp_path / "file" / "xla")
    assert compilation_cache.in_use() is None
    assert capsys.readouterr().err.startswith("warning: compiled programs are not kept: ")
    jax.config.update("jax_compilation_cache_dir", "gs://mine")
    compilation_cache.enable(tmp_path / "xla")
    assert compilation_cache.in_use() == "gs://mine", "JAX_COMPILATION_CACHE_DIR is the user's own choice"

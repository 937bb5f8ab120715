"""Frozen parameters of checkpoints: written once, verified as all else is, removed once no checkpoint names them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from jaxfer.errors import InputError
from jaxfer.runs.checkpoint import FROZEN, SMALL, Checkpoints, _checksum
from jaxfer.runs.checksum import array_sum
from tests.runs.test_checkpoint import HARM, SAVED, damage, make_state

pytestmark = pytest.mark.usefixtures("little_garbage")
PATHS = ("trunk/kernel", "trunk/scale")
LEAVES = ["['params']['trunk']['kernel']", "['params']['trunk']['scale']"]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def state_of(step: int, stage: int = 1):
    """Of a stage that trains the head: what changes follows from the step, the rest from the stage."""
    kernel = np.random.default_rng(stage).random((SMALL // 4, 1), np.float32)
    return make_state(step, trunk={"kernel": jnp.asarray(kernel), "scale": jnp.bfloat16([stage, 0.5])})


def save(folder, stages: dict[int, int], best=(), paths=PATHS) -> None:
    """Saves {step: its stage}."""
    checkpoints = Checkpoints(epath.Path(folder))
    for step, stage in stages.items():
        checkpoints.save(step, state_of(step, stage), {"stage": stage}, best, paths)
    checkpoints.close()


def restore(folder, checkpoints=None, **options):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(lambda: state_of(0))
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), shapes)
    opened = checkpoints or Checkpoints(epath.Path(folder), read_only=True)
    try:
        return opened.restore(lambda record: wanted, **options)
    finally:
        if checkpoints is None:
            opened.close()


def assert_is(restored, step, stage=1):
    state, record = restored
    assert record == {"stage": stage}
    for name in SAVED:
        pairs = zip(
            jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(state_of(step, stage), name)), strict=True
        )
        for found, wanted in pairs:
            assert found.dtype == wanted.dtype and np.asarray(found).tobytes() == np.asarray(wanted).tobytes(), name


def beside(folder):
    return folder.with_name(folder.name + FROZEN)


def sets(folder):
    return {path.name for path in beside(folder).iterdir()}


def record(folder, step):
    return json.loads((folder / str(step) / "record" / "metadata").read_text())


def name_of(stage: int) -> str:
    """The sha256 over names, types, shapes and checksums."""
    leaves = {
        name: {"dtype": str(leaf.dtype), "shape": list(leaf.shape), "sum64": array_sum(leaf)}
        for name, leaf in zip(LEAVES, state_of(0, stage).params["trunk"].values(), strict=True)
    }
    return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_they_are_written_once_for_all_checkpoints(folder):
    save(folder, {1: 1})
    (written,) = beside(folder).iterdir()
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    again = Checkpoints(epath.Path(folder))
    assert_is(restore(folder, again), 1)
    for step in (2, 3):
        again.save(step, state_of(step), {"stage": 1}, (1,), PATHS)
    again.close()
    assert written.name == name_of(1)
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before
    assert [record(folder, step)["frozen"] for step in (1, 2, 3)] == [{written.name: LEAVES}] * 3
    assert set(record(folder, 3)["leaves"]) >= set(LEAVES)
    for step in (1, 2, 3):
        assert_is(restore(folder, step=step), step)
    beside(folder).rename(beside(folder.with_name("moved")))
    gone = f"step 3 can't be read .its frozen parameters are missing: checkpoints_frozen/{written.name[:16]}"
    with pytest.raises(InputError, match=gone):
        restore(folder, step=3)


def test_few_stay_in_the_checkpoint(folder):
    save(folder, {1: 1}, paths=("head/out/kernel", "trunk/scale"))
    assert not beside(folder).exists() and record(folder, 1)["frozen"] == {}
    assert_is(restore(folder), 1)


def test_checkpoints_of_before_are_read_and_gone_on_from(folder):
    """They hold all leaves, and their records know no frozen ones."""
    save(folder, {1: 1}, paths=())
    content = {name: value for name, value in record(folder, 1).items() if name not in ("frozen", "crc32")}
    text = json.dumps({**content, "crc32": _checksum(content)})
    (folder / "1" / "record" / "metadata").write_text(text)
    checkpoints = Checkpoints(epath.Path(folder))
    assert_is(restore(folder, checkpoints), 1)
    checkpoints.amend(1, {"stage": 1}, (1,))
    checkpoints.save(2, state_of(2), {"stage": 1}, (1,), PATHS)
    checkpoints.close()
    for step in (1, 2):
        assert_is(restore(folder, step=step), step)


@pytest.mark.parametrize("best", [(), (1,)])
def test_a_set_goes_with_the_last_checkpoint_that_names_it(folder, best):
    """Two stages that freeze other values; each attempt goes on from what the one before left."""
    for step, stage, left in [(1, 1, {1}), (2, 1, {1}), (3, 2, {1, 2}), (4, 2, {2}), (5, 2, {2})]:
        checkpoints = Checkpoints(epath.Path(folder))
        restore(folder, checkpoints)
        checkpoints.save(step, state_of(step, stage), {"stage": stage}, best, PATHS)
        checkpoints.close()
        assert sets(folder) == {name_of(stage) for stage in left | ({1} if best else set())}
        assert_is(restore(folder), step, stage)
    if best:
        assert_is(restore(folder, step=1), 1)


def test_a_stage_may_freeze_other_leaves(folder):
    """What it trains is in the checkpoint again."""
    save(folder, {1: 1})
    save(folder, {2: 2}, paths=("trunk/kernel", "head/out/bias"))
    (names,) = record(folder, 2)["frozen"].values()
    assert names == ["['params']['head/out']['bias']", LEAVES[0]]
    assert_is(restore(folder, step=1), 1)
    assert_is(restore(folder), 2, 2)


def test_what_a_kill_left_is_removed(folder):
    """A set without a checkpoint, a save that was cut off; not while a record that can't be read may name them."""
    save(folder, {1: 1})
    shutil.copytree(beside(folder) / name_of(1), beside(folder) / name_of(2))
    (beside(folder) / f"{name_of(3)}.orbax-checkpoint-tmp" / "d").mkdir(parents=True)
    whole = (folder / "1" / "record" / "metadata").read_bytes()
    damage(folder / "1" / "record" / "metadata", "cut")
    Checkpoints(epath.Path(folder)).close()
    assert sets(folder) == {name_of(1), name_of(2)}
    (folder / "1" / "record" / "metadata").write_bytes(whole)
    Checkpoints(epath.Path(folder), read_only=True).close()
    assert sets(folder) == {name_of(1), name_of(2)}
    Checkpoints(epath.Path(folder)).close()
    assert sets(folder) == {name_of(1)}


@pytest.mark.parametrize("how", [*HARM, "all deleted"])
def test_damage_makes_a_checkpoint_unreadable(folder, how):
    """One line, and back to a checkpoint that names others; then they are written anew."""
    save(folder, {1: 1, 2: 2})
    if how == "all deleted":
        shutil.rmtree(beside(folder) / name_of(2))
    else:
        files = (beside(folder) / name_of(2)).rglob("d/*")
        damage(max(files, key=lambda path: path.stat().st_size), how)
    said, checkpoints = [], Checkpoints(epath.Path(folder))
    assert_is(restore(folder, checkpoints, say=said.append), 1)
    assert len(said) == 1 and said[0].startswith("checkpoint of step 2 can't be read (")
    assert said[0].endswith("; falling back to step 1") and "\n" not in said[0]
    checkpoints.discard_after(1)
    checkpoints.save(2, state_of(2, 2), {"stage": 2}, (), PATHS)
    checkpoints.close()
    assert_is(restore(folder), 2, 2)


def test_where_every_checkpoint_shares_them_none_is_left(folder):
    save(folder, {1: 1, 2: 1})
    shutil.rmtree(beside(folder))
    said = []
    with pytest.raises(InputError, match=r"none of the checkpoints \[2, 1\] in .* delete the folder to start over"):
        restore(folder, say=said.append)
    assert [line.rpartition("; ")[2] for line in said] == ["falling back to step 1", "no earlier one exists"]
    save(folder, {3: 1})
    assert_is(restore(folder), 3)


def test_they_are_on_disk_before_their_first_checkpoint_begins(folder, monkeypatch):
    checkpoints, begun = Checkpoints(epath.Path(folder)), []
    real = checkpoints._manager.save

    def saving(step, args):
        begun.append((step, sets(folder)))
        real(step, args=args)

    monkeypatch.setattr(checkpoints._manager, "save", saving)
    for step, stage in [(1, 1), (2, 1), (3, 2)]:
        checkpoints.save(step, state_of(step, stage), {"stage": stage}, (), PATHS)
    checkpoints.close()
    assert begun == [(1, {name_of(1)}), (2, {name_of(1)}), (3, {name_of(1), name_of(2)})]


def test_a_disk_that_they_fill_costs_no_checkpoint(folder, monkeypatch, capfd):
    """The error is the one that a save gives; what was cut off is no set."""
    save(folder, {1: 1})
    real = ocp.PyTreeCheckpointHandler.finalize

    def full(self, directory):
        if beside(folder) in epath.Path(directory).parents:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, directory)

    checkpoints = Checkpoints(epath.Path(folder))
    restore(folder, checkpoints)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.PyTreeCheckpointHandler, "finalize", full)
        with pytest.raises(OSError, match="No space left on device"):
            checkpoints.save(2, state_of(2, 2), {"stage": 2}, (), PATHS)
        checkpoints.close()
    assert capfd.readouterr().err == ""
    assert_is(restore(folder), 1)
    save(folder, {2: 2})
    assert_is(restore(folder), 2, 2)

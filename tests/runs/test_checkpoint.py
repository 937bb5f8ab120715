"""Checkpoints: bitwise, strict, the last two and the best; one that is torn is noticed, whatever of it is torn."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxfer.errors import InputError
from jaxfer.runs.checkpoint import SAVED, Checkpoints, UnreadableCheckpoint, _leaves
from jaxfer.state import State

HARM = ("emptied", "cut", "deleted", "zeroed", "flipped")
pytestmark = pytest.mark.usefixtures("little_garbage")


def make_state(step: int, **leaves) -> State:
    """Every kind of leaf that a State may hold; the values follow from `step`."""
    draw = np.random.default_rng(step).normal
    return State(
        step=jnp.int32(step),
        params={"head/out": {"kernel": jnp.float32(draw(size=(3, 4))), "bias": jnp.bfloat16(draw(size=4))}, **leaves},
        model_state={"batch_stats": {"norm": {"mean": jnp.float32(draw(size=5))}}},
        opt_state=({"head/out/kernel": jnp.float32(draw(size=(3, 4)))}, (jnp.int32(step),)),
        extra={"anchor": jnp.float32(draw(size=(64, 32)))},
        hparams={"lr": jnp.float32(0.1)},
        key=jax.random.key(0),
    )


def blank(record) -> State:
    """The shapes that a checkpoint fills."""
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), make_state(0))


def save(folder, *steps, best=None) -> None:
    checkpoints = Checkpoints(epath.Path(folder))
    for step in steps:
        checkpoints.save(
            step, make_state(step), {"stage": 0, "window": [{"loss": step / 3}]}, () if best is None else (best,)
        )
    checkpoints.close()


def restore(folder, **options):
    checkpoints = Checkpoints(epath.Path(folder), read_only=True)
    try:
        return checkpoints.restore(blank, **options)
    finally:
        checkpoints.close()


def assert_is(state, step):
    for name in SAVED:
        pairs = zip(
            jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(make_state(step), name)), strict=True
        )
        for found, wanted in pairs:
            assert found.dtype == wanted.dtype and np.asarray(found).tobytes() == np.asarray(wanted).tobytes(), name


def kept(folder):
    return sorted(int(path.name) for path in folder.iterdir())


def test_the_newest_is_restored_bitwise(tmp_path):
    assert restore(tmp_path / "run") is None
    save(tmp_path / "run", 1, 2)
    state, record = restore(tmp_path / "run")
    assert_is(state, 2)
    assert record == {"stage": 0, "window": [{"loss": 2 / 3}]}
    assert_is(restore(tmp_path / "run", step=1)[0], 1)


def on_mesh(axes: dict[str, int], shape: tuple[int, ...]) -> NamedSharding:
    """Split by the last axis over `tensor` and by the first over `fsdp`, where they divide it."""
    sizes = {"fsdp": 1, "tensor": 1, **axes}
    devices = np.asarray(jax.devices()[: sizes["fsdp"] * sizes["tensor"]]).reshape(tuple(sizes.values()))
    spec = ["fsdp" if shape[0] % sizes["fsdp"] == 0 else None, "tensor"] if len(shape) == 2 else []
    return NamedSharding(Mesh(devices, tuple(sizes), axis_types=(AxisType.Auto,) * 2), PartitionSpec(*spec))


def laid_out(state: State, axes: dict[str, int], placed) -> State:
    return jax.tree.map(lambda leaf: placed(leaf, on_mesh(axes, leaf.shape)), state)


def test_saved_on_some_devices_it_is_restored_on_others(tmp_path):
    """Bitwise, and each leaf as the run that resumes lays it out."""
    layouts = ({}, {"fsdp": 2}, {"fsdp": 4}, {"fsdp": 2, "tensor": 2}, {"tensor": 4}, {})
    for saved, restored in itertools.pairwise(layouts):
        folder = tmp_path / f"{saved}_{restored}"
        checkpoints = Checkpoints(epath.Path(folder))
        checkpoints.save(1, laid_out(make_state(1), saved, jax.device_put), {}, ())
        wanted = laid_out(
            jax.eval_shape(lambda: make_state(0)),
            restored,
            lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w),
        )
        state, _ = checkpoints.restore(lambda record, wanted=wanted: wanted)
        checkpoints.close()
        assert_is(state, 1)
        for name in SAVED:
            pairs = zip(jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(wanted, name)), strict=True)
            assert all(leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim) for leaf, like in pairs)


def test_a_checkpoint_from_before_is_read_and_its_damage_noticed(tmp_path, monkeypatch):
    """Its leaves have a CRC-32 each."""
    with monkeypatch.context() as patch:
        patch.setattr("jaxfer.runs.checkpoint._leaves", functools.partial(_leaves, kind="crc32"))
        save(tmp_path / "run", 1, 2)
    assert_is(restore(tmp_path / "run")[0], 2)
    (data,) = sorted((tmp_path / "run" / "2" / "state").rglob("d/*"), key=lambda path: path.stat().st_size)[-1:]
    damage(data, "flipped")
    said = []
    assert_is(restore(tmp_path / "run", say=said.append)[0], 1)
    assert len(said) == 1


def test_a_step_that_is_not_there(tmp_path):
    save(tmp_path / "run", 1, 2)
    with pytest.raises(InputError, match=r"no checkpoint of step 7 in .*run; there are \[2, 1\]"):
        restore(tmp_path / "run", step=7)


def test_a_record_is_amended_once_its_save_is_done(tmp_path):
    """What an evaluation adds is on disk before the next save begins, and at the latest when the run lets go."""
    folder = epath.Path(tmp_path / "run")

    def read():
        found = Checkpoints(folder, read_only=True)
        _, record = found.restore(lambda record: make_state(1))
        found.close()
        return record, found.best

    checkpoints = Checkpoints(folder)
    checkpoints.save(1, make_state(1), {"val": None}, ())
    checkpoints.amend(2, {"val": "of another step"}, (2,))
    checkpoints.amend(1, {"val": 0.5}, (1,))
    checkpoints.save(2, make_state(2), {"val": 0.5}, (1,))
    checkpoints.save(3, make_state(3), {"val": 0.5}, (1,))
    checkpoints.wait()
    assert {path.name for path in folder.iterdir()} == {"1", "2", "3"}, "the best is kept"
    checkpoints.amend(3, {"val": 0.75}, (3,))
    assert read() == ({"val": 0.5}, 1), "not yet"
    checkpoints.close()
    assert read() == ({"val": 0.75}, 3)


def test_a_relative_folder(tmp_path, monkeypatch):
    """Orbax saves under a relative path but refuses to restore from one."""
    monkeypatch.chdir(tmp_path)
    save("run", 1)
    assert_is(restore("run")[0], 1)


def test_saving_a_step_again_keeps_the_first(tmp_path):
    save(tmp_path / "run", 1)
    checkpoints = Checkpoints(epath.Path(tmp_path / "run"))
    checkpoints.save(1, make_state(5), {}, ())
    checkpoints.close()
    assert_is(restore(tmp_path / "run")[0], 1)


def test_the_record_is_of_the_moment_of_saving(tmp_path, monkeypatch):
    """Orbax writes it in the background, while the loop goes on filling the lists in it."""
    checkpoints, later = Checkpoints(epath.Path(tmp_path / "run")), []
    record = {"window": [{"loss": 1.0}], "lineage": {"stages": []}}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "save", lambda *args, **options: later.append((args, options)))
        checkpoints.save(1, make_state(1), record, ())
    record["window"].append({"loss": 2.0})
    record["lineage"]["stages"].append({"name": "probe"})
    for args, options in later:
        checkpoints._manager.save(*args, **options)
    checkpoints.close()
    assert restore(tmp_path / "run")[1] == {"window": [{"loss": 1.0}], "lineage": {"stages": []}}


def test_the_arrays_are_of_the_moment_of_saving(tmp_path):
    """The next step overwrites a donated State in place while its checkpoint is being written."""
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    checkpoints = Checkpoints(epath.Path(tmp_path / "run"))
    state = make_state(1)
    checkpoints.save(1, state, {}, ())
    step({name: getattr(state, name) for name in SAVED})
    checkpoints.close()
    assert_is(restore(tmp_path / "run")[0], 1)


@pytest.mark.parametrize(
    ("bests", "left"),
    [
        ([None, None, None], [2, 3]),
        ([1, 1, 1, 1], [1, 3, 4]),
        ([1, 2, 2, 2, 2], [2, 4, 5]),
        ([1, 1, 3], [1, 2, 3]),  # after a fallback from 3 to 2 the best is 1 again
        ([1, 1, 3, 3], [3, 4]),
        ([1, 2, 3, 4], [3, 4]),
    ],
    ids=str,
)
def test_the_last_two_and_the_best_are_kept(tmp_path, bests, left):
    checkpoints = Checkpoints(epath.Path(tmp_path / "run"))
    for step, best in enumerate(bests, 1):
        checkpoints.save(step, make_state(step), {}, () if best is None else (best,))
    checkpoints.close()
    assert kept(tmp_path / "run") == left
    again = Checkpoints(epath.Path(tmp_path / "run"), read_only=True)
    assert again.best == bests[-1]
    again.close()


def test_the_best_outlives_a_restart(tmp_path):
    save(tmp_path / "run", 1, 2, 3, best=1)
    checkpoints = Checkpoints(epath.Path(tmp_path / "run"))
    checkpoints.restore(blank)
    checkpoints.save(4, make_state(4), {}, (1,))
    checkpoints.close()
    assert kept(tmp_path / "run") == [1, 3, 4]


@pytest.mark.parametrize(
    ("leaf", "found"),
    [
        (
            {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(4, jnp.bfloat16)},
            r"\['kernel'\] is float32\[4, 3\] there, float32\[3, 4\]",
        ),
        ({"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)}, r"\['bias'\] is float32\[4\] there, bfloat16\[4\]"),
        ({"kernel": jnp.zeros((3, 4))}, r"\['bias'\] is absent there, bfloat16\[4\]"),
        (
            {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4, jnp.bfloat16), "gain": jnp.zeros(2)},
            r"\['gain'\] is float32\[2\] there, absent",
        ),
    ],
    ids=["shape", "dtype", "missing", "extra"],
)
def test_strict(tmp_path, leaf, found):
    """Orbax would fill in, reshape or convert silently; another model's checkpoint is no torn one either."""
    checkpoints = Checkpoints(epath.Path(tmp_path / "run"))
    checkpoints.save(1, make_state(1), {}, ())
    checkpoints.save(2, make_state(2).replace(params={"head/out": leaf}), {}, ())
    checkpoints.close()
    with pytest.raises(InputError, match=r"checkpoint of step 2: \['params'\]\['head/out'\]" + found) as refused:
        restore(tmp_path / "run")
    assert not isinstance(refused.value, UnreadableCheckpoint)


def damage(path, how, place=4):
    """Of what is flipped, a bit in the middle, or so many eighths behind the first."""
    data = bytearray(path.read_bytes())
    if how == "deleted":
        return path.unlink()
    if how == "flipped":
        data[len(data) * place // 8] ^= 0x10
    return path.write_bytes({"emptied": b"", "cut": data[: len(data) // 2], "zeroed": bytes(len(data))}.get(how, data))


def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path, monkeypatch):
    """Each file of the newest, damaged in every way: what is restored is bitwise right, and it says what it did.

    Some files do not matter (commit marks, orbax's own books): then the newest itself is restored.
    """
    monkeypatch.setattr(
        "jaxfer.runs.checkpoint.time", types.SimpleNamespace(sleep=lambda _: None)
    )  # for quiet's sake alone
    save(tmp_path / "whole", 1, 2)
    files = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole" / "2").rglob("*") if p.is_file())
    fell = set()
    for file, how in itertools.product(files, HARM):
        shutil.copytree(tmp_path / "whole", tmp_path / "run")
        damage(tmp_path / "run" / file, how)
        said = []
        state, record = restore(tmp_path / "run", say=said.append)
        step = int(state.step)
        assert_is(state, step)
        assert record["window"] == [{"loss": step / 3}]
        if step == 1:
            fell.add((file.parts[1], how))
            assert said[0].startswith("checkpoint of step 2 can't be read (") and len(said) == 1
            assert said[0].endswith("; falling back to step 1") and "\n" not in said[0]
        else:
            assert (step, said) == (2, [])
        shutil.rmtree(tmp_path / "run")
    assert fell == set(itertools.product(("record", "state"), HARM))


def test_none_left(tmp_path):
    save(tmp_path / "run", 1, 2)
    for path in (tmp_path / "run").glob("*/record/metadata"):
        damage(path, "cut")
    said = []
    with pytest.raises(
        InputError, match=r"none of the checkpoints \[2, 1\] in .*run can be read; delete the folder to start over"
    ):
        restore(tmp_path / "run", say=said.append)
    assert [line.rpartition("; ")[2] for line in said] == ["falling back to step 1", "no earlier one exists"]
    with pytest.raises(UnreadableCheckpoint, match="checkpoint of step 1 can't be read"):
        restore(tmp_path / "run", step=1)


def test_what_can_not_be_read_is_removed(tmp_path):
    save(tmp_path / "run", 1, 2)
    damage(tmp_path / "run" / "2" / "record" / "metadata", "cut")
    checkpoints = Checkpoints(epath.Path(tmp_path / "run"))
    checkpoints.restore(blank, say=lambda _: None)
    checkpoints.discard_after(1)
    checkpoints.save(2, make_state(2), {}, ())
    checkpoints.close()
    assert kept(tmp_path / "run") == [1, 2]
    assert_is(restore(tmp_path / "run")[0], 2)


def test_an_unfinished_save_is_no_checkpoint(tmp_path):
    """A kill leaves a temporary folder: a reader leaves it alone, the next writer clears it away."""
    save(tmp_path / "run", 1, 2)
    unfinished = tmp_path / "run" / "3.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "run" / "2", unfinished)
    assert_is(restore(tmp_path / "run")[0], 2)
    assert unfinished.exists()
    save(tmp_path / "run", 3)
    assert kept(tmp_path / "run") == [2, 3]
    assert_is(restore(tmp_path / "run")[0], 3)


def test_an_unfinished_save_that_is_still_being_written_is_cleared_away(tmp_path, monkeypatch):
    """Orbax's threads write on after a save has failed: a folder is not empty when it is about to be removed."""
    save(tmp_path / "run", 1)
    unfinished = tmp_path / "run" / "2.orbax-checkpoint-tmp"
    (unfinished / "d").mkdir(parents=True)
    real, late = os.rmdir, iter(["a", "b"])

    def rmdir(path, *, dir_fd=None):
        if (name := next(late, None)) is not None:
            (unfinished / "d" / name).touch()
        real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", rmdir)
    save(tmp_path / "run", 2)
    assert kept(tmp_path / "run") == [1, 2]
    assert_is(restore(tmp_path / "run")[0], 2)


@pytest.mark.parametrize("error", [MemoryError(), PermissionError("denied")], ids=lambda e: type(e).__name__)
def test_a_fault_of_the_machine_is_not_the_checkpoints(tmp_path, monkeypatch, error):
    """It must not cost a good checkpoint."""
    save(tmp_path / "run", 1, 2)
    checkpoints = Checkpoints(epath.Path(tmp_path / "run"))

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(checkpoints._manager, "restore", fail)
    with pytest.raises(type(error)):
        checkpoints.restore(blank)
    monkeypatch.undo()
    checkpoints.close()

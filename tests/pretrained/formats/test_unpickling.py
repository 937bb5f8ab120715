"""Objects beside the weights are passed over without being imported, and a few bytes can't ask for much work."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import pathlib
import pickle
import time

import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.pretrained.formats import archives
from tests.pretrained.torch_archives import Call, new_archive, old_archive, tensor

WRITERS = {"new": new_archive, "old": old_archive}
both = pytest.mark.parametrize("container", WRITERS)


class Loud:
    """A user's class; importing or building one would be noticed."""

    built = 0

    def __init__(self):
        type(self).built += 1
        self.rate = 0.1

    def __setstate__(self, state):
        raise AssertionError("its code ran")


class Settings(dict):
    """A dict with attributes, as configs of other libraries are."""


def loaded(container, content):
    return archives.load(io.BytesIO(WRITERS[container](content)))


@both
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (argparse.Namespace(lr=0.1, names=["a"]), "argparse.Namespace"),
        (np.float64(0.9), "numpy._core.multiarray.scalar"),
        (np.arange(3), "numpy._core.multiarray._reconstruct"),
        (collections.Counter("aab"), "collections.Counter"),
        (collections.deque([1, 2]), "collections.deque"),
        (pathlib.PurePosixPath("a/b"), "pathlib.PurePosixPath"),
        (datetime.datetime(2026, 1, 2), "datetime.datetime"),
        (complex(1, 2), "builtins.complex"),
        (Settings(a=1, b=[2]), "tests.pretrained.formats.test_unpickling.Settings"),
        (Call("pytorch_lightning.callbacks", "ModelCheckpoint"), "pytorch_lightning.callbacks.ModelCheckpoint"),
        (Call("copy_reg", "_reconstructor", (Settings, dict, {})), "tests.pretrained.formats.test_unpickling.Settings"),
    ],
)
def test_objects_of_other_classes_are_skipped(container, value, name):
    found = loaded(container, {"w": tensor([1.0, 2.0]), "beside": value, "after": 3})
    assert found["w"].array().tolist() == [1, 2] and found["after"] == 3
    assert isinstance(found["beside"], archives.Skipped) and found["beside"].name == name


@both
def test_nothing_of_a_skipped_class_runs(container):
    loud, before = Loud(), Loud.built
    found = loaded(container, {"w": tensor([1.0]), "beside": loud, "class": Loud, Loud: {"of": 1}})
    assert isinstance(found["beside"], archives.Skipped) and isinstance(found["class"], archives.Skipped)
    assert found["w"].array().tolist() == [1] and len(found) == 4 and Loud.built == before


@both
def test_plain_collections_are_read(container):
    found = loaded(container, {"default": collections.defaultdict(list, {"a": [1]}), (1, ("a", None)): (True, 0.5)})
    assert found == {"default": {"a": [1]}, (1, ("a", None)): (True, 0.5)}


def test_a_whole_module_of_an_old_torch_is_refused_by_name():
    """Before 1.6 a class was stored with its source, under a persistent id of its own."""
    pid = b"(X\x06\0\0\0modulecnets\nResNet\nX\x01\0\0\0aX\x01\0\0\0btQ"
    found = archives.Unpickler(io.BytesIO(b"\x80\x02" + pid + b")\x81."), lambda storage: None).load()
    assert isinstance(found, archives.Skipped) and found.name == "nets.ResNet"


def doubled(times: int) -> bytes:
    """Opcodes of a tuple that holds another twice, which holds another twice, and so on."""
    return b"K\x01" + b"2\x86" * times


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"}" + doubled(60) + b"K\x01s.", "a dict key"),  # SETITEM
        (b"}(" + doubled(60) + b"K\x01u.", "a dict key"),  # SETITEMS
        (b"(" + doubled(60) + b"K\x01d.", "a dict key"),  # DICT
        (b"\x8f(" + doubled(60) + b"\x90.", "a dict key"),  # ADDITEMS
        (b"(" + doubled(60) + b"\x91.", "a dict key"),  # FROZENSET
        (b"ccollections\nOrderedDict\n](" + doubled(60) + b"K\x01\x86e\x85R.", "a dict key"),
        (b"((" + b"lp0\n" + b"K\x01ts.", "Corrupted|IndexError|not a dict|damaged"),
        (b"(X\x07\0\0\0storagectorch\nFloatStorage\n" + doubled(60) + b"X\x03\0\0\0cpuK\x01tQ.", "a storage record"),
        (b"(" + doubled(60) + b"ctorch\nFloatStorage\nX\1\0\0\x000X\x03\0\0\0cpuK\x01tQ.", "a storage record"),
        (b"(X\x07\0\0\0storage" + doubled(60) + b"X\1\0\0\x000X\x03\0\0\0cpuK\x01tQ.", "a storage record"),
        (b"K\x05)\x81.", "an object whose type is not a class"),
        (b"K\x05K\x01a.", "list items for an object that is not a list"),
        (b"K\x05K\x01K\x02s.", "dict items for an object that is not a dict"),
        (b"(" + b"K\x01" * 65 + b"tp0\n0ctorch\nSize\ng0\n\x85R.", "a tensor of shape"),
    ],
)
def test_a_few_bytes_cannot_ask_for_much(program, message):
    began = time.process_time()
    with pytest.raises(InputError, match=message) as caught, archives.plain_errors():
        archives.Unpickler(io.BytesIO(b"\x80\x02" + program), lambda storage: None).load()
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    assert time.process_time() - began < 60  # it was years


def test_a_key_nested_deep_and_shapes_of_anything_are_refused_without_being_printed():
    deep = b")" + b"\x85" * 200_000
    with pytest.raises(InputError, match="a dict key"):
        archives.Unpickler(io.BytesIO(b"\x80\x02}" + deep + b"K\x01s."), lambda storage: None).load()
    lazy = archives.LazyTensor(None, ((1,) * 50,) * 50, (1,), (1,), lambda storage: None)
    with pytest.raises(InputError, match="a tensor of shape") as caught:
        lazy.array()
    assert len(str(caught.value)) < 300


def test_protocols_that_torch_does_not_write_are_read_alike():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps({"a": argparse.Namespace(x=1), "b": {1, 2}, "c": frozenset({3})}, protocol=protocol)
        found = archives.Unpickler(io.BytesIO(data), lambda storage: None).load()
        assert isinstance(found["a"], archives.Skipped) and len(found) == 3

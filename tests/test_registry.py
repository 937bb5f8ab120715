"""Rooms: what is found by file, and the schema of a factory's signature."""

from __future__ import annotations

import sys

import pytest

import jaxfer.methods
from jaxfer import config as config_module
from jaxfer.errors import InputError
from jaxfer.registry import METHODS, MODELS, SOURCES, TASKS, Room

DROPPED = '''
from __future__ import annotations

from jaxfer.method import FROZEN, Method


def method(port, *, strength: int = 3, names: tuple[str, ...] = ("a",)):
    """A method dropped into the room: the head alone, and an hparam."""
    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", FROZEN)), hparams={"lr": (0.5, (0.5,)), "pull": (0.1, (0.1,))}
    )
'''


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A room of its own: two members, shared code and a private file."""
    package = tmp_path / "a_room"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("def thing(base=0, *, a: int = 1, b: float = 2.0):\n    return [base, a, b]\n")
    (package / "two.py").write_text("def thing(*, required: int, c=None):\n    return c\n")
    (package / "shared.py").write_text("HELP = 1\n")
    (package / "_private.py").write_text("def thing():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield Room("thing", "a_room", "thing")
    for name in [name for name in sys.modules if name.split(".")[0] == "a_room"]:
        del sys.modules[name]


@pytest.fixture
def dropped(tmp_path, monkeypatch):
    """`dropped.py` in jaxfer/methods, as far as Python can tell."""
    (tmp_path / "dropped.py").write_text(DROPPED)
    monkeypatch.setattr(jaxfer.methods, "__path__", [*jaxfer.methods.__path__, str(tmp_path)])
    yield "dropped"
    sys.modules.pop("jaxfer.methods.dropped", None)


def test_the_rooms_hold_what_the_house_promises():
    assert {"full", "probe", "l2sp", "lora"} <= set(METHODS.names())
    assert {"resnet", "vit"} <= set(MODELS.names())
    assert {"classification", "regression"} <= set(TASKS.names())
    assert {"digits", "npz", "folder", "synthetic"} <= set(SOURCES.names())


def test_shared_code_is_no_member(room):
    assert room.names() == ("one", "two")
    assert not {"chain", "layers", "port"} & set(MODELS.names())


def test_schema_is_the_keyword_only_parameters_with_a_default(room):
    assert room.schema("one") == {"a": (int, 1), "b": (float, 2.0)}
    assert list(room.schema("two")) == ["c"]


def test_the_same_arguments_give_the_same_object(room):
    assert room.make("one", 5, b=3.0, a=2) == [5, 2, 3.0]
    assert room.make("one", 5, b=3.0, a=2) is room.make("one", 5, a=2, b=3.0)
    assert room.make("one", 5, a=2) is not room.make("one", 5, a=3)


@pytest.mark.parametrize("name", ["three", "shared", "_private", "", "../one", "one.thing", "ONE", None, 3])
def test_an_unknown_name_is_one_line(room, name):
    with pytest.raises(InputError, match="^unknown thing ") as error:
        room.get(name)
    assert "'one'" in str(error.value) or "known: one, two" in str(error.value)


def test_a_file_dropped_into_the_room_is_found(dropped):
    assert dropped in METHODS.names()
    assert METHODS.schema(dropped) == {"strength": (int, 3), "names": (tuple[str, ...], ("a",))}


def test_a_dropped_method_is_set_from_the_command_line(dropped):
    base = config_module.base()
    overrides = {"method": dropped, "options.strength": "7", "options.names": "x,y", "options.pull": "2"}
    (_, stage), *_ = config_module.resolve(config_module.override(base, overrides)).stages
    assert stage.method == dropped
    assert stage.options == {"strength": 7, "names": ("x", "y"), "pull": 2.0}


def test_a_dropped_file_is_suggested_for_a_misspelling(dropped):
    with pytest.raises(InputError, match="unknown method 'droped'; nearest: 'dropped'"):
        METHODS.get("droped")


def test_the_room_forgets_a_file_that_is_gone():
    assert "dropped" not in METHODS.names()

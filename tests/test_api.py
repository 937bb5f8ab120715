"""The Python API: it lists itself, and says in one line what is wrong with an argument."""

from __future__ import annotations

from pathlib import Path

import pytest

import jaxfer
import jaxfer.config
from jaxfer.errors import InputError
from tests.experiments import tiny_config

CONFIG = str(Path(__file__).parent.parent / "configs" / "digits.py")


def test_the_package_lists_its_api():
    assert set(jaxfer.__all__) <= set(dir(jaxfer))
    assert {"load", "run", "show", "evaluate", "export", "predict", "sweep", "compare", "plan"} <= set(jaxfer.__all__)
    assert all(callable(getattr(jaxfer, name)) for name in jaxfer.__all__)
    with pytest.raises(AttributeError, match="module 'jaxfer' has no attribute 'nothing'"):
        _ = jaxfer.nothing


def test_a_config_file_may_be_a_path():
    assert jaxfer.load(Path(CONFIG)) == jaxfer.load(CONFIG)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jaxfer.load(None), "expected a config file FILE.py.:ARG., found None"),
        (lambda: jaxfer.load([1]), "expected a config file FILE.py.:ARG., found .1."),
        (lambda: jaxfer.load(CONFIG, [("steps", 1)]), "overrides: expected {'a.b': value}, such as .* found .*steps"),
        (lambda: jaxfer.load(CONFIG, {1: 2}), "overrides: expected {'a.b': value}, such as .* found {1: 2}"),
        (lambda: jaxfer.run("configs/digits.py", "x"), "expected a config, found 'configs/digits.py'; start from"),
        (lambda: jaxfer.run(tiny_config("resnet_basic"), None), "expected the path of a folder, found None"),
        (lambda: jaxfer.run(tiny_config("resnet_basic"), 5), "expected the path of a folder, found 5"),
        (lambda: jaxfer.run(tiny_config("resnet_basic"), b"x"), "expected the path of a folder, found b'x'"),
        (lambda: jaxfer.show(None), "expected a config, found None; start from jaxfer.load"),
        (lambda: jaxfer.show({"steps": 1}), "expected a config, found {'steps': 1}; start from jaxfer.load"),
        (lambda: jaxfer.evaluate(None), "expected the path of a folder, found None"),
        (lambda: jaxfer.evaluate("x", overrides={1: 2}), "overrides: expected {'a.b': value}"),
        (lambda: jaxfer.export(None), "expected the path of a folder, found None"),
        (lambda: jaxfer.load_export(None), "expected the path of a folder, found None"),
        (lambda: jaxfer.sweep(CONFIG, None), "expected the path of a folder, found None"),
        (lambda: jaxfer.sweep(None, "x"), "expected a config file FILE.py.:ARG., found None"),
        (lambda: jaxfer.sweep(CONFIG, "x", overrides=[1]), "overrides: expected {'a.b': value}"),
        (lambda: jaxfer.sweep(Path(CONFIG), "x", processes=1.5), "--processes: expected at least 1, found 1.5"),
        (lambda: jaxfer.compare(CONFIG, "x", overrides=5), "overrides: expected {'a.b': value}, such as .* found 5"),
        (lambda: jaxfer.compare(3, "x"), "expected a config file FILE.py.:ARG., found 3"),
    ],
)
def test_arguments_of_the_wrong_kind(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x" / "cells").exists()

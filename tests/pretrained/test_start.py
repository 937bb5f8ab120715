"""Starting from a run: what is loaded, what is made anew, and that it is written down."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jaxfer
from jaxfer.errors import InputError
from jaxfer.pretrained import starting
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from tests.experiments import tiny_config


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "run"
    jaxfer.run(tiny_config("resnet_basic", steps=2), folder, quiet=True)
    return folder


def kinds(ledger):
    return {entry["what"] for entry in ledger["leaves"].values()}


def begin(config, folder, monkeypatch):
    """The Start of a run that is then trained."""
    starts, real = [], starting.start

    def spy(*args):
        starts.append(real(*args))
        return starts[-1]

    monkeypatch.setattr(starting, "start", spy)
    jaxfer.run(config, folder, quiet=True)
    return starts[0], json.loads((folder / "ledger.json").read_text())


def test_trap_reinitialising_the_head_of_a_fine_tuned_model(source, tmp_path, monkeypatch):
    """The same classes: the head stays, and the first evaluation is the source's own."""
    config = tiny_config("resnet_basic", init=f"run:{source}", method="probe", lr=0.0, steps=1)
    start, ledger = begin(config, tmp_path / "run", monkeypatch)
    assert kinds(ledger) == {"loaded"}
    theirs = flatten(open_run(source).state.params)
    assert all(np.array_equal(leaf, theirs[path]) for path, leaf in flatten(start.params).items())
    ours, source_result = (json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "run", source))
    assert ours["metrics"]["val"] == source_result["metrics"]["val"]
    assert ours["lineage"]["source_sha256"] == source_result["lineage"]["sha256"] == ours["lineage"]["sha256"]


def test_other_classes_get_a_new_head_and_the_ledger_says_why(source, tmp_path, monkeypatch):
    config = tiny_config("resnet_basic", init=f"run:{source}", steps=1)
    config.data.classes_count = 4
    start, ledger = begin(config, tmp_path / "run", monkeypatch)
    anew = {path for path, entry in ledger["leaves"].items() if entry["what"] != "loaded"}
    assert anew == {"params/head/out/kernel", "params/head/out/bias"}
    expected = {"what": "re-initialised", "from": "params/head/out/bias", "shape": [4]}
    assert ledger["leaves"]["params/head/out/bias"] == {**expected, "why": "the classes differ from the source's"}
    assert start.params["head"]["out"]["kernel"].shape[-1] == 4


def test_head_reset_is_announced(source, tmp_path, monkeypatch):
    config = tiny_config("resnet_basic", init=f"run:{source}", head="reset", steps=1)
    _, ledger = begin(config, tmp_path / "run", monkeypatch)
    assert ledger["leaves"]["params/head/out/kernel"]["why"] == "config.head=reset"


def test_a_head_that_does_not_fit_stops_the_run(source, tmp_path):
    config = tiny_config("resnet_basic", init=f"run:{source}", head="keep", steps=1)
    config.data.classes_count = 4
    with pytest.raises(InputError, match="params/head/out/.* is .* here"):
        jaxfer.run(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_another_architecture_stops_the_run(source, tmp_path):
    config = tiny_config("resnet_basic", init=f"run:{source}", steps=1)
    config.model.stage_sizes, config.differs = (1, 1), ("stage_sizes",)
    with pytest.raises(InputError, match="source leaves are not in the model"):
        jaxfer.run(config, tmp_path / "run", quiet=True)


@pytest.mark.system
def test_what_only_training_sees_may_differ_and_the_rest_if_announced(source, tmp_path):
    config = tiny_config("resnet_basic", init=f"run:{source}", steps=1)
    config.model.stochastic_depth = 0.1
    jaxfer.run(config, tmp_path / "dropping", quiet=True)
    config.model.mean, config.differs = (0.25,), ("mean",)
    jaxfer.run(config, tmp_path / "announced", quiet=True)
    config.differs = ()
    with pytest.raises(InputError, match=r"mean is .* there, \(0.25,\) here"):
        jaxfer.run(config, tmp_path / "silent", quiet=True)


def test_equal_class_names_of_other_data_do_not_keep_the_head_by_themselves(source, tmp_path, monkeypatch):
    config = tiny_config("resnet_basic", init=f"run:{source}", steps=1)
    config.data.noise = 0.123
    with pytest.raises(InputError, match="config.head=auto: .* other data"):
        jaxfer.run(config, tmp_path / "auto", quiet=True)
    config.head = "keep"
    _, ledger = begin(config, tmp_path / "kept", monkeypatch)
    assert kinds(ledger) == {"loaded"}


def test_a_run_whose_source_was_trained_again_is_refused(tmp_path):
    """Resuming would mix two sources; a finished run would be taken for one of the new source."""
    jaxfer.run(tiny_config("resnet_basic", steps=1), tmp_path / "source", quiet=True)
    config = tiny_config("resnet_basic", init="sibling:source", steps=1)
    jaxfer.run(config, tmp_path / "run", quiet=True)
    jaxfer.run(tiny_config("resnet_basic", steps=3), tmp_path / "source", quiet=True)
    for _ in range(2):
        with pytest.raises(InputError, match="the source has changed since the run began .sha256 .*; restore it"):
            jaxfer.run(config, tmp_path / "run", quiet=True)
        (tmp_path / "run" / "result.json").unlink(missing_ok=True)


def test_sibling_is_the_run_beside_this_one(source, tmp_path, monkeypatch):
    config = tiny_config("resnet_basic", init="sibling:run", steps=1)
    _, ledger = begin(config, source.parent / "other", monkeypatch)
    assert ledger["lineage"]["init"] == "sibling:run" and kinds(ledger) == {"loaded"}


def test_scratch_initialises_everything(tmp_path, monkeypatch):
    _, ledger = begin(tiny_config("resnet_basic", steps=1), tmp_path / "run", monkeypatch)
    assert kinds(ledger) == {"initialised"} and ledger["lineage"]["init"] == "scratch"

"""A run outlives what it began with: its own folder holds every fact, and the tokenizer."""

from __future__ import annotations

import json
import shutil

import pytest

import jaxfer
from jaxfer.errors import InputError
from jaxfer.pretrained.hub import Absent
from jaxfer.runs.finished import open_run
from tests.experiments import TOKENIZER
from tests.pretrained.checkpoints import text_config


def longer(config, steps):
    config = config.copy_and_resolve_references()
    config.steps = steps
    return config


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """(a run whose checkpoint was moved after a step, its config, its result, that of a run of two steps)."""
    folder = tmp_path_factory.mktemp("moved")
    config = text_config(folder / "source")
    first = jaxfer.run(config, folder / "run", quiet=True)
    whole = jaxfer.run(longer(config, 2), folder / "whole", quiet=True)
    (folder / "source").rename(folder / "elsewhere")
    return folder / "run", config, first, whole


@pytest.mark.system
def test_a_finished_run_is_itself_without_its_checkpoint(moved):
    run, config, first, _ = moved
    assert jaxfer.run(config, run, quiet=True) == first
    assert jaxfer.evaluate(run) == pytest.approx(first["metrics"]["val"], rel=1e-6)
    assert [answer.error for answer in jaxfer.predict(run, ["was bad films"], text=True)] == [None]
    assert open_run(run).stage.spec.port.encoding.tokenizer == str(run / "tokenizer")
    assert open_run(run).stage.spec == open_run(run.parent / "whole").stage.spec  # one program, wherever copies lie
    out = jaxfer.export(run)
    assert (out / "vocab.txt").read_bytes() == (run / "tokenizer" / "vocab.txt").read_bytes()


def test_another_run_starts_from_it(moved, tmp_path):
    run, config, first, _ = moved
    config = config.copy_and_resolve_references()
    config.update(init=f"run:{run}", differs=())
    config.model = dict(name="auto")
    result = jaxfer.run(config, tmp_path / "next", quiet=True)
    assert result["lineage"]["source_sha256"] == first["lineage"]["sha256"]
    assert json.loads((tmp_path / "next" / "config.json").read_text())["model"]["tokenizer"] == str(run / "tokenizer")


def test_it_goes_on_to_the_same_end(moved, tmp_path):
    run, config, _, whole = moved
    shutil.copytree(run, tmp_path / "run")
    result = jaxfer.run(longer(config, 2), tmp_path / "run", quiet=True)
    assert result["lineage"]["sha256"] == whole["lineage"]["sha256"] and result["metrics"] == whole["metrics"]
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["model"]["tokenizer"] == str(run.parent / "source")  # where it came from, not where it lies


def test_it_is_still_held_to_its_config(moved, tmp_path):
    run, config, *_ = moved
    other = config.copy_and_resolve_references()
    other.model.pool = "mean"
    with pytest.raises(InputError, match="holds a run of another config .*model.pool: 'pooler' there, 'mean' here"):
        jaxfer.run(other, run, quiet=True)
    other.model = dict(name="auto", pool="pooler", max_length=7, tokenizer=str(tmp_path))
    with pytest.raises(InputError, match="expected a tokenizer .* found none"):
        jaxfer.run(other, run, quiet=True)
    shutil.copytree(TOKENIZER, tmp_path / "tokenizer")
    words = (tmp_path / "tokenizer" / "vocab.txt").read_text().splitlines()
    (tmp_path / "tokenizer" / "vocab.txt").write_text("\n".join([*words[:-2], words[-1], words[-2]]) + "\n")
    other.model.tokenizer = str(tmp_path / "tokenizer")
    with pytest.raises(InputError, match="another config .*model.tokenizer_sha256: "):
        jaxfer.run(other, run, quiet=True)


def test_where_there_is_no_run_yet_the_checkpoint_is_missed(moved, tmp_path):
    run, config, *_ = moved
    for folder in (tmp_path / "new", run.parent / "whole" / "checkpoints"):
        with pytest.raises(Absent, match="source: no such folder or file") as caught:
            jaxfer.run(config, folder, quiet=True)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_changed_checkpoint_is_no_missing_one(moved, tmp_path):
    """Whatever lies in its place now is what is asked for, and refused."""
    run, config, *_ = moved
    source = run.parent / "source"
    text_config(source)
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match="the source has changed since the run began .sha256 .*; restore it"):
        jaxfer.run(config, run, quiet=True)
    shutil.rmtree(source)


def test_a_tokenizer_that_the_config_names_may_go_too(tmp_path):
    shutil.copytree(TOKENIZER, tmp_path / "tokenizer")
    config = text_config(tmp_path / "source")
    config.model.tokenizer = str(tmp_path / "tokenizer")
    result = jaxfer.run(config, tmp_path / "run", quiet=True)
    (tmp_path / "tokenizer").rename(tmp_path / "elsewhere")
    assert jaxfer.run(config, tmp_path / "run", quiet=True) == result
    with pytest.raises(InputError, match="config.model.tokenizer: expected a folder, found nothing"):
        jaxfer.run(config, tmp_path / "new", quiet=True)
    shutil.rmtree(tmp_path / "source")
    assert jaxfer.run(config, tmp_path / "run", quiet=True) == result
    config.model.tokenizer = str(tmp_path / "elsewhere")  # known by its content, wherever it lies
    assert jaxfer.run(config, tmp_path / "run", quiet=True) == result

"""Durations in words: steps by hand, and where a percentage has nothing to be of."""

from __future__ import annotations

import pytest

from jaxfer.config import base, durations, override
from jaxfer.errors import InputError

OF_100 = dict(examples=100, batch_size=32)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2epochs", 7),  # 200 / 32 = 6.25
        ("1 epoch", 4),
        ("0.5epochs", 2),
        ("64examples", 2),
        ("65 examples", 3),
        ("1example", 1),
        ("10%", 3),  # of 30, which floats would round up to 4 for 0.1 * 3
        ("12.5%", 4),
    ],
)
def test_steps_by_hand(text, wanted):
    assert durations.said(text)
    assert durations.steps(text, "config.steps", **OF_100, whole=30) == wanted


@pytest.mark.parametrize("value", ["many", "", "10", "1e3epochs", "-1epochs", "10 %%", 10, 1.5, None])
def test_what_is_no_duration_in_words(value):
    assert not durations.said(value)


def test_every_field_of_a_config():
    config = override(base(), {"stages": "one,two", "batch_size": 10, "eval_every": "10%", "log_every": 4})
    config = override(config, {"stage.one.steps": "2epochs", "stage.one.warmup": "25%", "save_every": "150examples"})
    config = override(config, {"stage.two.steps": "300examples", "warmup": "50examples"})
    made = durations.in_steps(config, {"one": 100, "two": 100})
    assert (made.stage.one.steps, made.stage.one.warmup) == (20, 5)
    assert (made.stage.two.steps, made.stage.two.warmup) == (30, 5)
    assert (made.eval_every, made.save_every, made.log_every) == (5, 15, 4)
    assert not list(durations.places(made)) and len(list(durations.places(config))) == 6


def test_a_common_length_is_of_each_stages_own_examples():
    config = override(base(), {"stages": "one,two", "steps": "1epochs", "stage.two.batch_size": 5, "batch_size": 10})
    made = durations.in_steps(config, {"one": 1000, "two": 100})
    assert (made.stage.one.steps, made.stage.two.steps) == (100, 20)


def test_refused():
    with pytest.raises(InputError, match="config.steps: expected steps, epochs or examples, found '10%'"):
        durations.in_steps(override(base(), {"steps": "10%"}), {"": 100})
    config = override(base(), {"stages": "one,two", "stage.one.batch_size": 1, "eval_every": "1epochs"})
    with pytest.raises(InputError, match="config.eval_every: '1epochs' is another number of steps in each stage; give"):
        durations.in_steps(config, {"one": 8, "two": 8})
    with pytest.raises(InputError, match="config.steps: expected int, found '10 epoch s'"):
        override(base(), {"steps": "10 epoch s"})


def test_a_stand_in_leaves_the_config_alone():
    config = override(base(), {"steps": "3epochs", "warmup": "10%"})
    plain = durations.stand_in(config)
    assert (plain.steps, plain.warmup, config.steps, config.warmup) == (1, 0, "3epochs", "10%")


def test_a_file_may_assign_them():
    config = base()
    config.steps = 7
    config.update(steps="3epochs", warmup="10%")
    config.warmup = 5
    assert (config.steps, config.warmup) == ("3epochs", 5)
    for wrong in ("many", 1.5):
        with pytest.raises(TypeError, match="override field 'steps'"):
            config.steps = wrong
    assert base().steps == 100

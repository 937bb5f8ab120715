"""Causal language modelling: its targets by hand, and models whose tokens see what comes after them."""

from __future__ import annotations

import numpy as np
import pytest

from jaxfer.conformance import tasks
from jaxfer.data.encodings.text import texts
from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.models import heads
from jaxfer.registry import MODELS, TASKS


@pytest.mark.parametrize("check", tasks.PROPERTIES, ids=lambda check: check.__name__)
def test_it_keeps_what_every_task_keeps(check):
    assert check("causal_lm") is None


def test_the_target_is_the_token_after():
    fields = {
        "input_ids": np.asarray([[5, 6, 7, 0], [8, 0, 0, 0], [1, 2, 3, 4]], np.int32),
        "attention_mask": np.asarray([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], np.int32),
    }
    found = TASKS.make("causal_lm").targets(Split.whole(text=texts(("a", "b", "c"))), np.arange(3), fields, None)
    np.testing.assert_array_equal(found["next"], [[6, 7, -1, -1], [-1, -1, -1, -1], [2, 3, 4, -1]])


def test_an_encoder_is_refused():
    with pytest.raises(InputError, match="task 'causal_lm' needs a model with the head 'next', model 'bert' has"):
        heads.check("bert", MODELS.get("bert"), "next", "causal_lm")

"""One cell's attempt, without training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from etils import epath

from jaxfer.sweeps import executor


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ('{"message": "the loss is nan"}', executor.DIVERGED, "the loss is nan"),
        ("{}", executor.FAILED, "diverged.json: message: expected str, found nothing"),
        ('"x"', executor.FAILED, "diverged.json: expected a JSON object, found a str"),
        ("{", executor.FAILED, "diverged.json: expected a JSON file of a run"),
    ],
)
def test_the_record_of_a_diverged_cell_is_checked(text, status, message, tmp_path):
    """A damaged one fails its own cell; the others go on."""
    place = epath.Path(tmp_path) / executor.FOLDER / "key"
    place.mkdir(parents=True)
    (place / "diverged.json").write_text(text)
    outcome = executor._attempt(SimpleNamespace(key="key", config=None), epath.Path(tmp_path))
    assert outcome.status == status and message in outcome.message and "\n" not in outcome.message

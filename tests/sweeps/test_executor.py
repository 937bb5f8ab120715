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
    cell = SimpleNamespace(key="key", config=SimpleNamespace(seed=0))
    (outcome,) = executor._attempt((cell,), epath.Path(tmp_path))
    assert outcome.status == status and message in outcome.message and "\n" not in outcome.message


def test_groups_follow_from_the_cells_alone():
    def cell(key, alike, *sources):
        return SimpleNamespace(key=key, alike=alike, sources=sources)

    a, b = [cell(f"a{i}", "a") for i in range(70)], [cell(f"b{i}", "b", "a0") for i in range(2)]
    alone, other = [cell(f"c{i}", "") for i in range(2)], cell("d", "b")
    groups = executor.grouped([a[0], alone[0], b[0], *a[1:], other, alone[1], b[1]])
    assert groups == [tuple(a[:64]), (alone[0],), tuple(b), tuple(a[64:]), (other,), (alone[1],)]

"""The page of a regression: its bins by hand, and that its largest errors are those of the run."""

from __future__ import annotations

import base64
import re
import shlex

import numpy as np
import pytest
from etils import epath

import jaxfer
from jaxfer.reports.mistakes import regression
from jaxfer.training.evaluation import reopened
from tests.experiments import tiny_config
from tests.reports.mistakes.read import listed
from tests.reports.test_report import plain


def test_bins_of_as_many_examples_each():
    """23 examples in ten bins: three of three and seven of two, by true value."""
    rng = np.random.default_rng(0)
    true, predicted = rng.permutation(23).astype(float), rng.normal(size=23)
    found = regression.bins(true, predicted)
    order = np.argsort(true)
    begin = 0
    for (at, mean, low, high, off, count), size in zip(found, [3] * 3 + [2] * 7, strict=True):
        part, begin = order[begin : begin + size], begin + size
        assert (
            count == size and at == pytest.approx(true[part].mean()) and mean == pytest.approx(predicted[part].mean())
        )
        assert [low, high] == pytest.approx(np.quantile(predicted[part], [0.1, 0.9]))
        assert off == pytest.approx(np.abs(predicted[part] - true[part]).mean())
    assert len(regression.bins(true[:4], predicted[:4])) == 4


@pytest.mark.system
def test_the_page_of_a_run_that_predicts_a_value(tmp_path):
    config = tiny_config("row_mlp", steps=2, eval_every=1, init="scratch", task=dict(name="regression"))
    config.data.update(target="value", label="size", numbers=("weight",), bad_rows=10)
    config.model = dict(name="row_mlp")
    result = jaxfer.run(config, tmp_path / "run", quiet=True)
    page = jaxfer.report(tmp_path / "run").path.read_text()
    assert 'id="confusion"' not in page and "give each example one class" not in page
    _, _, data = reopened(epath.Path(tmp_path / "run"), "val", "result", {})
    val = data.splits["val"]
    rows = listed(page, "mistakes")
    assert len(rows) == min(len(val), 24)
    true = dict(zip(val.rows.tolist(), val.labels.tolist(), strict=True))
    off = [float(row["difference"]) for row in rows]
    assert [abs(x) for x in off] == sorted(map(abs, off), reverse=True)
    for row in rows:
        assert float(row["true value"]) == pytest.approx(true[int(row["row"])], rel=1e-6)
        assert float(row["predicted"]) - float(row["true value"]) == pytest.approx(float(row["difference"]), abs=1e-6)
    if len(rows) == len(val):
        assert np.mean(np.abs(off)) == pytest.approx(result["metrics"]["val"]["mae"], rel=1e-5)
    assert "On val it is off by" in plain(page) and 'id="values"' in page
    (command,) = re.findall(r"<code>jaxfer run (.*?)</code>", page)  # its lineage: the command and the config as a file
    config, workdir = shlex.split(command)
    again = jaxfer.run(jaxfer.load(config), workdir.removeprefix("--workdir="), quiet=True)
    assert again["lineage"]["sha256"] == result["lineage"]["sha256"]
    (link,) = re.findall(r'href="data:application/json;base64,([^"]*)" download="config.json"', page)
    assert base64.b64decode(link) == (tmp_path / "run/config.json").read_bytes()
    page = jaxfer.report(tmp_path / "run", evaluate=False).path.read_text()
    assert 'id="values"' not in page and "Mistakes, calibration" not in page

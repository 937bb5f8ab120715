"""`jaxfer runs`: a table, CSV or JSON of the runs below a folder."""

from __future__ import annotations

import json

from jaxfer.commands import main
from tests.runs.folders import result, write


def test_the_table_of_a_folder(tmp_path, capsys):
    write(tmp_path / "a", ended=result(accuracy=0.875, loss=0.5))
    write(tmp_path / "b", changes={"lr": 0.1})
    (write(tmp_path / "c") / "config.json").write_text("{")
    assert main(["runs", str(tmp_path), "--filter", "lr>0.001", "--sort=-accuracy"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "name  state            lr  val.accuracy  seconds  params_trainable",
        "a     finished       0.01        0.8750     12.5             1,234",
        "b     step 20 of 60   0.1        0.7500      2.5",
        "2 of 3 runs",
    ]
    assert err.startswith(f"warning: {tmp_path}/c/config.json: expected a JSON file of a run")
    assert main(["runs", str(tmp_path), "--json", "--columns=lr", "--filter=state=finished"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "a", "lr": 0.01}]
    assert main(["runs", str(tmp_path), "--csv", "--columns=lr", "--sort=lr"]) == 0
    assert capsys.readouterr().out == "name,lr\na,0.01\nb,0.1\nc,\n"


def test_what_is_refused(tmp_path, capsys):
    assert main(["runs", str(tmp_path / "none")]) == 2
    assert main(["runs", str(tmp_path), "--config.lr=1"]) == 2
    assert main(["runs", str(tmp_path), "--csv", "--json"]) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert "expected a folder with runs, found nothing" in first
    assert "--config.lr: this command reads no config; use --filter" in second
    assert "not allowed with argument --csv" in third

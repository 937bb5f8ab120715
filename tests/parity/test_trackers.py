"""What TensorBoard, Weights & Biases and MLflow themselves read of a run that was told to them, offline.

Trackio wants an older Pillow than the other packages of this environment, and MLflow's server its whole package.
"""

from __future__ import annotations

import struct

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jaxfer.trackers import Begin, End, Metrics, make
from jaxfer.trackers.following import tell

BEGUN = 1_700_000_000.0
CONFIG = {"lr": 0.1, "method": "lora", "freeze": ["stem/.*"], "test": False, "model.patch": None}
LINES = (
    Metrics(step=10, time=BEGUN + 1.5, values={"train/loss": 2.0}),
    Metrics(step=20, time=BEGUN + 2.0, values={"train/loss": 1.0}),
    Metrics(step=20, time=BEGUN + 2.5, values={"val/accuracy": 0.75}),
)
MORE = Metrics(step=30, time=BEGUN + 3.0, values={"train/loss": 0.5})
STOPPED = End(finished=False, step=20, time=BEGUN + 2.5, summary={})
DONE = End(finished=True, step=30, time=BEGUN + 3.0, summary={"result/val/accuracy": 0.75, "cost/seconds": 12.5})


def told(name, folder, *events, into=""):
    """Tells a tracker, a new one each time, of a run up to `events`."""
    tracker = make(name, project="digits", into=into)
    begin = Begin(id="0123456789abcdef", name="one", folder=str(folder), config=CONFIG, started=BEGUN)
    for event in (begin, *events):
        tell(tracker, event)


def test_tensorboard(tmp_path):
    told("tensorboard", tmp_path, *LINES, STOPPED)
    told("tensorboard", tmp_path, *LINES, MORE, DONE)
    read = EventAccumulator(str(tmp_path / "tb"))
    read.Reload()
    assert [(e.step, e.value, e.wall_time) for e in read.Scalars("train/loss")] == [
        (10, 2.0, BEGUN + 1.5),
        (20, 1.0, BEGUN + 2.0),
        (30, 0.5, BEGUN + 3.0),
    ]
    assert [(e.step, e.value) for e in read.Scalars("val/accuracy")] == [(20, 0.75)]
    assert [(e.step, e.value) for e in read.Scalars("cost/seconds")] == [(30, 12.5)]
    assert "method: lora" in read.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    plugin = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    start = HParamsPluginData.FromString(plugin).session_start_info.hparams
    assert start["lr"].number_value == 0.1 and start["method"].string_value == "lora"
    assert start["test"].bool_value is False and start["freeze"].string_value == "['stem/.*']"


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file:{tmp_path}/store"


def test_mlflow(tmp_path, store):
    from mlflow.tracking import MlflowClient

    for _ in range(2):  # the second time nothing is told again
        told("mlflow", tmp_path, *LINES, STOPPED, into=store)
    client = MlflowClient(store)
    key = client.get_experiment_by_name("digits").experiment_id
    (run,) = client.search_runs([key])
    assert (run.info.run_name, run.info.status, run.info.start_time) == ("one", "KILLED", 1000 * BEGUN)
    assert run.data.params == {name: str(value) for name, value in CONFIG.items()}
    told("mlflow", tmp_path, *LINES, MORE, DONE, into=store)
    (run,) = client.search_runs([key])
    assert (run.info.status, run.info.end_time) == ("FINISHED", 1000 * (BEGUN + 3))
    assert run.data.metrics == {"train/loss": 0.5, "val/accuracy": 0.75, **DONE.summary}
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value, m.timestamp / 1000 - BEGUN) for m in history] == [(10, 2, 1.5), (20, 1, 2), (30, 0.5, 3)]


def records(path):
    """The records of wandb's offline file: a LevelDB log of protocol buffers after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # what is left of a block is too small for a record
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # a whole one, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def test_wandb(tmp_path, monkeypatch):
    import wandb

    for name, value in {"MODE": "offline", "SILENT": "true", "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    told("wandb", tmp_path, *LINES, DONE, into=str(tmp_path))
    wandb.teardown()  # its service may still be writing when `finish` returns; a process waits for it at its end
    (path,) = tmp_path.glob("wandb/offline-run-*/run-0123456789abcdef.wandb")
    found = list(records(path))
    (begun,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert (begun.run_id, begun.project, begun.display_name) == ("0123456789abcdef", "digits", "one")
    config = {item.key: item.value_json for item in begun.config.update}
    assert config["lr"] == "0.1" and config["freeze"] == '["stem/.*"]' and config["model.patch"] == "null"
    logged = [record.history for record in found if record.WhichOneof("record_type") == "history"]
    values = [{"/".join(item.nested_key) or item.key: item.value_json for item in history.item} for history in logged]
    kept = [{name: value for name, value in each.items() if not name.startswith("_")} for each in values]
    assert [(history.step.num, each) for history, each in zip(logged, kept, strict=True)] == [
        (10, {"train/loss": "2"}),
        (20, {"train/loss": "1", "val/accuracy": "0.75"}),
    ]
    (code,) = [record.exit.exit_code for record in found if record.WhichOneof("record_type") == "exit"]
    assert code == 0

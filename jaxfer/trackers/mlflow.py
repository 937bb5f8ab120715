"""MLflow: a run of an experiment, on a server or in a local store; without --into as MLFLOW_TRACKING_URI says."""

from __future__ import annotations

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from jaxfer.trackers import Begin, End, Metrics

TAG = "jaxfer.id"
LONGEST = 6000  # characters of a parameter's value
BATCH = 100  # parameters, and 1000 metrics, are what a server takes at once
WAIT = 500  # metrics that are sent together


class Run:
    """A run of an experiment, found again by its tag; of each metric only steps after its last are told."""

    def __init__(self, project: str, into: str):
        self._client, self._project = MlflowClient(into or None), project
        self._unsent: list[Metric] = []
        self._last: dict[str, int] = {}

    def begin(self, event: Begin) -> None:
        experiment = self._client.get_experiment_by_name(self._project)
        key = experiment.experiment_id if experiment else self._client.create_experiment(self._project)
        found = self._client.search_runs([key], f"tags.`{TAG}` = '{event.id}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            for name in found[0].data.metrics:
                self._last[name] = max(m.step for m in self._client.get_metric_history(self._id, name))
            self._client.update_run(self._id, status="RUNNING")
            return
        tags = {TAG: event.id, "jaxfer.folder": event.folder}
        begun = round(1000 * event.started)
        self._id = self._client.create_run(key, start_time=begun, run_name=event.name, tags=tags).info.run_id
        params = [Param(name, str(value)[:LONGEST]) for name, value in event.config.items()]
        for i in range(0, len(params), BATCH):
            self._client.log_batch(self._id, params=params[i : i + BATCH])

    def metrics(self, event: Metrics) -> None:
        self._add(event.values, event.step, event.time)

    def end(self, event: End) -> None:
        self._add(event.summary, event.step, event.time)
        self._send()
        status = "FINISHED" if event.finished else "KILLED"
        self._client.set_terminated(self._id, status, end_time=round(1000 * event.time))

    def _add(self, values, step: int, when: float) -> None:
        new = {name: value for name, value in values.items() if step > self._last.get(name, -1)}
        self._unsent += [Metric(name, value, round(1000 * when), step) for name, value in new.items()]
        if len(self._unsent) >= WAIT:
            self._send()

    def _send(self) -> None:
        if self._unsent:
            self._client.log_batch(self._id, metrics=self._unsent)
        self._unsent = []


def tracker(project: str, into: str) -> Run:
    """`into`: MLflow's tracking URI, such as http://127.0.0.1:5000 or sqlite:///mlflow.db."""
    return Run(project, into)

"""What a model leaves to data: options that its encodings read from the training split, once.

They are recorded in the run's config.json, so that a resumed run, `eval` and `predict` use the same ones, and a run
that starts from another takes the source's: its weights know no others.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from etils import epath

from jaxfer.config.experiment import Choice, Experiment
from jaxfer.data.split import Split
from jaxfer.models.port import Port
from jaxfer.pretrained import columns, starting
from jaxfer.runs.folder import holds_run, stored_experiment


def fitted(
    experiment: Experiment, port: Port, train: Split, folder: epath.Path | None
) -> tuple[Experiment, Experiment]:
    """(the experiment to record, the same with every option of its model); both are `experiment` for most models.

    They differ where the source is not trained yet, when a sweep is planned: the record leaves the options open, and
    these data stand in for the source's.

    Args:
      experiment: resolved.
      port: its model.
      train: the training split; it has the columns that the model reads.
      folder: the run's, if any.
    """
    options: dict[str, Any] = {}
    for encoding in port.encodings:
        options |= encoding.fitted(train) if hasattr(encoding, "fitted") else {}
    if not options:
        return experiment, experiment
    if not experiment.run.init.startswith(("run:", "sibling:")):
        complete = _with(experiment, options)
        return complete, complete
    stored, own = _stored(experiment, folder), columns.announced(experiment.run.differs)
    complete = _with(
        experiment, {name: value if name in own else stored.get(name, value) for name, value in options.items()}
    )
    return complete if stored else experiment, complete


def _with(experiment: Experiment, options: dict[str, Any]) -> Experiment:
    model = {**dict(experiment.model.options), **options}
    choice = Choice(name=experiment.model.name, options=tuple(sorted(model.items())))
    return dataclasses.replace(experiment, model=choice)


def _stored(experiment: Experiment, folder: epath.Path | None) -> dict[str, Any]:
    """The options of the source's model, or where that has been deleted, of the run in the folder; {} for neither."""
    init = experiment.run.init
    places = [] if folder is None else [starting.locate(init, folder)]
    if folder is None and init.startswith("run:"):
        places.append(starting.locate(init, epath.Path(".")))
    if folder is not None and holds_run(folder) and stored_experiment(folder).run.init == init:
        places.append(folder)
    return next((dict(stored_experiment(place).model.options) for place in places if holds_run(place)), {})

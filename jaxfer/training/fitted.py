"""What a model leaves to data: options that its encodings read from the training split, once.

They are recorded in the run's config.json, so that a resumed run, `eval` and `predict` use the same ones. A run that
starts from another has the source's instead (`agreement.followed`): its weights know no others.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxfer.config.experiment import Choice, Experiment
from jaxfer.data.split import Split
from jaxfer.models.port import Port
from jaxfer.pretrained import columns


def fitted(experiment: Experiment, port: Port, train: Split) -> tuple[Experiment, Experiment]:
    """(the experiment to record, the same with every option of its model); both are `experiment` for most models.

    They differ where the source is not known yet, as of `sibling:NAME` without a folder: the record leaves the options
    open, and these data stand in for the source's.

    Args:
      experiment: resolved.
      port: its model.
      train: the training split; it has the columns that the model reads.
    """
    options: dict[str, Any] = {}
    for encoding in port.encodings:
        options |= encoding.fitted(train) if hasattr(encoding, "fitted") else {}
    if not options:
        return experiment, experiment
    model = {**dict(experiment.model.options), **options}
    choice = Choice(name=experiment.model.name, options=tuple(sorted(model.items())))
    complete, run = dataclasses.replace(experiment, model=choice), experiment.run
    unknown = run.init.startswith(("run:", "sibling:")) and not {*options} <= columns.announced(run.differs)
    return experiment if unknown else complete, complete

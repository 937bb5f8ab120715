"""What `preflight` gives: the checked plan of a config, and what there is to say of it."""

from __future__ import annotations

import dataclasses

from jaxfer.config.experiment import Experiment
from jaxfer.data.overview import overview
from jaxfer.data.split import Dataset
from jaxfer.parallel.placement import Placement
from jaxfer.pretrained.foreign import Checkpoint
from jaxfer.stages import Stage
from jaxfer.training import examples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preflight:
    """The checked plan of a config, used by `run`, `show` and `sweep`.

    Attributes:
      experiment: the config with every default filled in, the methods' among them.
      data: its splits; `test` only where the config opens it.
      stages: what each stage does to which parameter.
      where: the devices.
      spare: number of devices that stay idle.
      assumed: what no file of the checkpoint states, and what of it is left out, a line each.
      checkpoint: what the files of a foreign one say; None for a run, for scratch, and where they are gone.
      recipe: the recipe that filled in the stages, and its reasons, a line each.
    """

    experiment: Experiment
    data: Dataset
    stages: tuple[Stage, ...]
    where: Placement
    spare: int = 0
    assumed: tuple[str, ...] = ()
    checkpoint: Checkpoint | None = None
    recipe: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Number of steps of the whole run."""
        return self.stages[-1].stop

    def notes(self) -> tuple[str, ...]:
        """Notes on the plan that need no action, a line each; the data's notes are in `overview`."""
        idle = (
            f"{self.spare} of {self.spare + self.where.size} devices stay idle: the batch size is not divisible by more"
        )
        spare_notes = (idle,) if self.spare and not self.experiment.parallel.devices else ()
        notes = (note for stage in self.stages for note in (*stage.notes, *self.where.notes(stage)))
        return (*spare_notes, *self.assumed, *dict.fromkeys(notes))

    def overview(self, *, sample: int = 0) -> str:
        """The data in a few lines; `sample` as in `jaxfer.data.overview`."""
        source, spec = self.experiment.source, self.stages[0].spec
        encodings = () if spec.task.expand is not None else spec.port.encodings  # windows hold all of a text
        blocks = [overview(source.name, dict(source.options), self.data, encodings, sample=sample)]
        for name, stream in self.experiment.streams:
            if stream.source is not None:
                own, of = stream.source, f"stream {name}" + ("" if stream.task else ", labels sealed")
                blocks.append(overview(own.name, dict(own.options), self.data.streams[name], (), sample=sample, of=of))
            else:
                what = "the main examples once more" if stream.rows == "same" else "a partner of each main example"
                blocks.append(f"stream {name}: {what}, {_augmented(stream.data.augment)}")
        if said := examples.sampled(self.experiment, self.data):
            blocks.append(said)
        if self.data.pool is not None:
            count = f"all {len(self.data.pool):,} training examples, without their labels"
            for name, config in self.experiment.stages:
                if not examples.reads_labels(self.experiment, config):
                    blocks.append(f"stage {name}: {count}")
        blocks += ["\n  ".join(self.recipe)] if self.recipe else []
        return "\n".join(blocks)


def _augmented(names: tuple[str, ...]) -> str:
    return f"under draws of their own ({', '.join(names)})" if names else "not augmented"

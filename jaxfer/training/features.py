"""Features: activations of one unit of a run's or a checkpoint's model on a split, for tools outside of jaxfer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxfer import files, npz_files
from jaxfer.data.encoding import stated
from jaxfer.data.loader import Feed, eval_batches
from jaxfer.data.split import Array, Split
from jaxfer.errors import InputError, nearest
from jaxfer.models.port import FEATURES, Port
from jaxfer.network import Network, of_state
from jaxfer.parallel.placement import Placement, placement, spread
from jaxfer.runs.finished import fingerprint
from jaxfer.stages import Stage
from jaxfer.training import lineage, untrained
from jaxfer.training.evaluation import names_run, reopened
from jaxfer.training.progress import Reporter

MASK = "attention_mask"  # the input field of texts that says where tokens are
ROW = "source_row"  # a column that says, of what a task makes of an example, which row it is of
ABOUT = "about"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """What `features` found; activations are computed when they are asked for.

    Attributes:
      about: unit, run or checkpoint, sha256 of its weights, encodings, versions.
      shape: of the activations, [n, ...]; texts are as long as the longest.
      masked: whether there is a `mask`, of tokens.
      row: int64 [n], rows of the data source.
      label: of each, as `Split.labels` has them; None where there are none.
      batches: -> (activations float32 [b, ...], mask bool [b, length] or None), in order.
    """

    about: Mapping[str, Any]
    shape: tuple[int, ...]
    masked: bool
    row: np.ndarray
    label: np.ndarray | None
    batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray | None]]]

    def arrays(self) -> dict[str, np.ndarray]:
        """The file's content in memory: `features` float32 [n, ...], `row`, `label`, `mask`, `about`."""
        whole, begin, masks = np.empty(self.shape, np.float32), 0, []
        for values, mask in self.batches():
            whole[begin : begin + len(values)] = values
            begin += len(values)
            masks.append(mask)
        return {FEATURES: whole, **dict(self._beside(masks))}

    def write(self, out: str | epath.Path) -> epath.Path:
        """Writes an .npz, batch by batch; it appears when it is whole. Returns its path.

        Raises:
          InputError: a folder, a name of another ending, or a file that is none of ours.
        """
        path, masks = _writable(out), []

        def parts() -> Iterator[np.ndarray]:
            for values, mask in self.batches():
                masks.append(mask)
                yield values

        def arrays() -> Iterator[tuple[str, Any]]:
            yield FEATURES, npz_files.Parts(self.shape, "float32", parts())
            yield from self._beside(masks)

        path.parent.mkdir(parents=True, exist_ok=True)
        with files.written(path) as file:
            npz_files.write(file, arrays())
        return path

    def _beside(self, masks: list[np.ndarray | None]) -> Iterator[tuple[str, np.ndarray]]:
        if self.masked:
            yield "mask", np.concatenate(masks)
        yield "row", self.row
        if self.label is not None:
            yield "label", self.label
        yield ABOUT, np.array(json.dumps(self.about, default=str))


def features(
    run: str | epath.Path,
    *,
    unit: str = FEATURES,
    split: str = "val",
    pool: str | None = None,
    checkpoint: str = "result",
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Features:
    """Activations of a unit in evaluation mode: of a finished run on its own data or another set, or of a checkpoint.

    The classes of the data may be others than the model's. What is random in targets (masked words) is left out, and
    long texts that a task reads in windows have a row for each window.

    Args:
      run: its folder; or a checkpoint, as `config.init` names one, on the data that `overrides` name.
      unit: what this unit of the model gives; `features`: what its output layer reads.
      split: `train`, `val` or `test`.
      pool: `mean`: of all tokens of a text, or all places of another input; None: as they are. In what is as long as a
        text, padding is 0, and `mask` says where tokens are. Of pairs that are read apart there are two: [n, 2, ...].
      checkpoint: of a run: `result` (what result.json describes), `last` or `best`.
      overrides: {"data.x": value}, as on the command line.
      quiet: leave out the notes on what was assumed of a checkpoint.

    Returns:
      `.arrays()` computes them, `.write("F.npz")` writes them without holding them in memory.

    Raises:
      InputError: an unfinished run, a split that the data lacks or that is empty, a sealed test split, a unit that the
        model has not or whose activations can't be put in one array, or nothing to take a mean of.
    """
    overrides = overrides or {}
    if pool not in (None, "mean"):
        raise InputError(f"--pool: expected mean, found {pool!r}; or leave it out")
    if names_run(run, checkpoint, overrides):
        finished, experiment, data = reopened(run, split, checkpoint, overrides)
        network, stage, fresh = of_state(finished.stage, finished.state), finished.stage, ()
        source = {"run": str(finished.folder), "checkpoint": checkpoint}
        sha256 = fingerprint(network.params, network.model_state)
    else:
        loaded = untrained.headless(str(run), overrides, split=split)
        experiment, stage, data, fresh = loaded.experiment, loaded.stage, loaded.data, loaded.fresh
        network, source, sha256 = of_state(stage, loaded.state), {"checkpoint": str(run)}, loaded.sha256
        reporter = Reporter(quiet=quiet)
        for note in loaded.notes:
            reporter.say(f"note: {note}")
    examples = data.splits[split]
    if not len(examples):
        raise InputError(f"split {split!r} has no examples; choose another, or correct config.data")
    _check_unit(network.port, unit, fresh)
    reading = Reading.of(network, unit, pool == "mean")
    feed = _feed(stage, network.port, examples)
    where, size = placement(experiment.parallel), experiment.run.eval_batch_size
    lengths = feed.bind().lengths if reading.tokens and not reading.mean else None
    longest = None if lengths is None else int(lengths.max())
    about = {
        "unit": unit,
        "pool": pool,
        "split": split,
        **source,
        "weights_sha256": sha256,
        "model": experiment.model.name,
        "data": experiment.source.name,
        "data_sha256": data.fingerprint,
        "classes": list(data.classes),
        "encodings": [stated(encoding) for encoding in network.port.encodings],
        "versions": lineage.versions(),
    }
    return Features(
        about=about,
        shape=(len(feed.split), *reading.shape(longest)),
        masked=longest is not None,
        row=np.array([feed.split.example(ROW, i) for i in range(len(feed.split))], np.int64),
        label=feed.split.labels,
        batches=lambda: _batches(stage, network, reading, feed, where, size, longest),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How the activations of a unit are read: a pure function of arrays and a batch.

    Attributes:
      unit: its name, or `features`.
      mean: whether the mean over tokens or places is taken.
      tokens: whether their second axis is that of the tokens of a text.
      like: shape of one example's, as the unit gives them.
      apart: whether an example has two, for the texts of a pair.
      skipped: how many tokens are no place of the input.
    """

    unit: str
    mean: bool
    tokens: bool
    like: tuple[int, ...]
    apart: bool
    skipped: int

    @classmethod
    def of(cls, network: Network, unit: str, mean: bool) -> Reading:
        """Checks that it can be done; nothing is compiled."""
        port = network.port
        batch = port.example(1)
        found = jax.eval_shape(lambda batch: network(batch, taps=(unit,)).taps[unit], batch)
        if not isinstance(found, jax.ShapeDtypeStruct):
            count = len(jax.tree.leaves(found))
            raise InputError(f"--unit={unit}: it gives a tree of {count} array(s); name a unit that gives one array")
        tokens = bool(port.encoding.buckets) and found.ndim > 2
        if tokens and (MASK not in batch or batch[MASK].shape[-1] != found.shape[1]):
            raise InputError(
                f"--unit={unit}: it gives {list(found.shape[1:])} for the longest text, and which of these are of a "
                f"token is not known; name a unit that gives a vector for each text, such as {FEATURES!r}"
            )
        if mean and found.ndim == 2:
            raise InputError(f"--pool=mean: unit {unit!r} gives one vector of {found.shape[1]} already; leave it out")
        skipped = port.module.leading(unit) if found.ndim == 3 and unit in port.units[:-1] else 0
        return cls(unit=unit, mean=mean, tokens=tokens, like=found.shape[1:], apart=port.apart, skipped=skipped)

    def shape(self, longest: int | None) -> tuple[int, ...]:
        """Of one example, texts being this long."""
        shape = self.like[-1:] if self.mean else self.like if longest is None else (longest, *self.like[1:])
        return (2, *shape) if self.apart else shape

    def __call__(self, network: Network, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array | None]:
        """(activations [b, ...], mask [b, length] or None): what comes after the unit is dropped by the compiler."""
        return self.read(network(batch, taps=(self.unit,)).taps[self.unit], batch)

    def read(self, x: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array | None]:
        """The same of a tap that is there already."""
        mask = batch[MASK].reshape(x.shape[:2]) > 0 if self.tokens else None
        kept = True if mask is None else mask.reshape(*mask.shape, *[1] * (x.ndim - 2))
        if self.mean:
            x = x.astype(jnp.float32)[:, self.skipped :]
            axes = tuple(range(1, x.ndim - 1))
            count = jnp.broadcast_to(kept, x.shape).sum(axes)
            x, mask = x.sum(axes, where=kept) / jnp.maximum(count, 1), None
        elif mask is not None:
            x = jnp.where(kept, x, 0)
        if self.apart:
            x, mask = jax.tree.map(lambda v: v.reshape(-1, 2, *v.shape[1:]), (x, mask))
        return x, mask


def _check_unit(port: Port, unit: str, fresh: tuple[str, ...]) -> None:
    known = (*port.units, FEATURES)
    if unit not in known:
        raise InputError(f"--unit: the model has no unit {unit!r}{nearest(unit, known)}")
    head, last = f"params/{port.head}/", port.units[-1]
    lost = [leaf for leaf in fresh if unit == last or (unit == FEATURES and not leaf.startswith(head))]
    if lost:
        earlier = FEATURES if unit == last else port.units[-2]
        raise InputError(
            f"--unit={unit}: it reads {lost[0].removeprefix('params/')}, which is not taken from the checkpoint; name "
            f"an earlier unit, such as {earlier!r}"
        )


def _feed(stage: Stage, port: Port, examples: Split) -> Feed:
    """Inputs alone, with the row that each is of; `InputError` if the model can't read them."""
    whole = len(examples.input[1])
    tracked = examples.with_column(ROW, Array(np.arange(whole), "value"))
    feed = Feed(split=tracked, encodings=port.encodings)
    feed.check()
    return dataclasses.replace(feed, split=stage.spec.task.expanded(tracked, port.encodings))


def _batches(
    stage: Stage, network: Network, reading: Reading, feed: Feed, where: Placement, size: int, longest: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Activations of the whole split, those of padding left out; each batch as long as the longest text."""
    spec = where.applied(dataclasses.replace(stage.spec, port=network.port))
    model = dataclasses.replace(network, port=spec.model)
    shardings = where.shardings(spec, network.params, network.arrays)
    arrays = spread(network.arrays, shardings)
    step = jax.jit(
        lambda arrays, batch: reading(model.with_arrays(*arrays), batch),
        in_shardings=(shardings, where.batched),
        out_shardings=where.batched,
    )
    size, left = where.rounded(min(size, len(feed.split))), len(feed.split)
    axis = 2 if reading.apart else 1
    for batch in where.feed(eval_batches(feed, batch_size=size), train=False):
        del batch["mask"]  # padding comes last
        values, mask = jax.device_get(step(arrays, batch))
        real = min(size, left)
        left -= real
        if longest is None:
            yield np.asarray(values[:real], np.float32), None
        else:
            yield _long(np.asarray(values[:real], np.float32), axis, longest), _long(mask[:real], axis, longest)


def _long(values: np.ndarray, axis: int, length: int) -> np.ndarray:
    """Cut or padded with 0 to this length: a bucket may be longer than all texts, or shorter than those of another."""
    short = max(0, length - values.shape[axis])
    padded = np.pad(values, [(0, short if i == axis else 0) for i in range(values.ndim)]) if short else values
    return np.take(padded, np.arange(length), axis) if padded.shape[axis] > length else padded


def _writable(out: str | epath.Path) -> epath.Path:
    if out == "":
        raise InputError("--out: expected a file that ends with .npz, found ''; name one")
    path = files.opened(out).expanduser()
    if path.is_dir():
        raise InputError(f"--out: {path} is a folder; name a file in it, such as {path / 'features.npz'}")
    if path.suffix != ".npz":
        raise InputError(f"--out: expected a file that ends with .npz, found {str(out)!r}; name one")
    if path.exists():
        with path.open("rb") as file:
            if ABOUT not in npz_files.names(file):
                raise InputError(f"--out: {path} exists and holds no features; name another file")
    return path

"""The next points of a series: squared error, and the error beside that of the seasonal naive forecast."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.data.encoding import Draw, Fields
from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.task import Answer, Mean, Shapes, Task

SHOWN = 6  # points of an answer


def task(*, horizon: int = 24) -> Task:
    """Least squares on every point and channel of the horizon, in the unit of the data.

    Metrics: `mse`, `mae` and `mase`, the absolute error divided by that of the training rows forecast by the value a
    season before (Hyndman and Koehler, 2006, doi:10.1016/j.ijforecast.2006.03.001), a mean over channels that change.
    `naive_mse`, `naive_mae` and `naive_mase` are those of the last season of the history, repeated: what a model has
    to beat.

    Args:
      horizon: points to forecast, as many as the data's futures have.
    """
    if horizon < 1:
        raise InputError(f"expected config.task.horizon >= 1, found {horizon}")
    return Task(
        outputs=functools.partial(_outputs, horizon=horizon),
        head="forecast",
        target="future",
        shapes=_shapes,
        targets=functools.partial(_targets, horizon=horizon),
        loss=lambda outputs, batch, hparams: Mean(_over(jnp.square, outputs, batch)),
        scores=_scores,
        gathered=_gathered,
        answer=_answer,
        monitor="mse",
        metrics={"mae": False, "mase": False},
    )


def _outputs(classes: int, horizon: int) -> int:
    if classes:
        raise InputError(
            f"task 'forecast' needs series with a future, the data has {classes} classes; use data.source=csv_series"
        )
    return horizon


def _shapes(n: int, outputs: int, fields: Shapes) -> Shapes:
    return {"future": jax.ShapeDtypeStruct((n, outputs, fields["history"].shape[2]), "float32")}


def _targets(split: Split, rows: np.ndarray, encoded: Fields, draw: Draw | None, *, horizon: int) -> Fields:
    """`future`, float32 [b, horizon, channels]; zeros where it is asked for."""
    if "future" not in split.columns:
        return {"future": np.zeros((len(rows), horizon, encoded["history"].shape[2]), np.float32)}
    if split.columns["future"].length != horizon:
        raise InputError(
            f"expected futures of config.task.horizon={horizon} points, the data's have "
            f"{split.columns['future'].length}; set config.task.horizon and config.data.horizon to one number"
        )
    return {"future": np.stack([split.example("future", int(row)) for row in rows])}


def _over(error, outputs, batch):
    return error(outputs.astype(jnp.float32) - batch["future"]).mean((1, 2))


def _scores(outputs, batch):
    square = Mean(_over(jnp.square, outputs, batch))
    return {"loss": square, "mse": square, "mae": Mean(_over(jnp.abs, outputs, batch))}


def _gathered(outputs: np.ndarray, split: Split) -> dict[str, float]:
    column = split.columns["future"]
    future = np.stack([split.example("future", row) for row in range(len(split))]).astype(np.float64)
    naive = np.stack(
        [seasonal_naive(split.example("series", row), column.season, column.length) for row in range(len(split))]
    ).astype(np.float64)
    return {
        "mase": _mase(outputs.astype(np.float64) - future, column.naive),
        "naive_mse": float(np.square(naive - future).mean()),
        "naive_mae": float(np.abs(naive - future).mean()),
        "naive_mase": _mase(naive - future, column.naive),
    }


def seasonal_naive(history: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """[horizon, channels]: the last season of the history [length, channels], again and again."""
    return history[len(history) - season + np.arange(horizon) % season]


def _mase(errors: np.ndarray, naive: Sequence[float]) -> float:
    """Of errors [n, horizon, channels]; 0 where no channel changes in the training rows."""
    scale = np.asarray(naive)
    changes = scale > 0
    return float((np.abs(errors).mean((0, 1))[changes] / scale[changes]).mean()) if changes.any() else 0.0


def _answer(forecast: np.ndarray, classes: Sequence[str], example: Any) -> Answer:
    """The first points of each channel."""
    more = " ..." if len(forecast) > SHOWN else ""
    return Answer(text="; ".join(" ".join(f"{x:.4g}" for x in channel[:SHOWN]) + more for channel in forecast.T))

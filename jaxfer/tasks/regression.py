"""One real target: squared error."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxfer.errors import InputError
from jaxfer.task import Task


def task() -> Task:
    """Least squares on the target as it stands (standardise it in the data if its scale is far from 1)."""
    return Task(
        outputs=_outputs,
        loss=lambda outputs, batch, hparams: _squared_error(outputs, batch),
        scores=_scores,
        gathered=_r2,
        monitor="mse",
        label_dtype="float32",
    )


def _outputs(classes: int) -> int:
    if classes:
        raise InputError(
            f"task 'regression' needs real targets, the data has {classes} classes; "
            "use --config.task.name=classification"
        )
    return 1


def _squared_error(outputs, batch):
    return jnp.square(outputs[:, 0].astype(jnp.float32) - batch["label"])


def _scores(outputs, batch):
    square = _squared_error(outputs, batch)
    return {"loss": square, "mse": square, "mae": jnp.sqrt(square)}


def _r2(outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Coefficient of determination: 1 - residual / total sum of squares (0 where the targets are all equal)."""
    labels = labels.astype(np.float64)
    total = np.square(labels - labels.mean()).sum()
    residual = np.square(labels - outputs[:, 0].astype(np.float64)).sum()
    return {"r2": float(1 - residual / total) if total > 0 else 0.0}

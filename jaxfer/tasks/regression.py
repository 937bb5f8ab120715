"""One real target: squared error."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxfer.errors import InputError
from jaxfer.task import Task


def task() -> Task:
    """Least squares on the target as it stands (standardise it in the data if its scale is far from 1)."""
    return Task(
        outputs=_outputs,
        loss=lambda outputs, batch, hparams: _squared_error(outputs, batch),
        scores=_scores,
        gathered=_gathered,
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


def _gathered(outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """R2 (1 - residual / total sum of squares) and both correlations; 0 where the targets or outputs are all equal."""
    outputs, labels = outputs[:, 0].astype(np.float64), labels.astype(np.float64)
    total = np.square(labels - labels.mean()).sum()
    vary = total > 0 and np.ptp(outputs) > 0
    return {
        "r2": float(1 - np.square(labels - outputs).sum() / total) if total > 0 else 0.0,
        "pearson": float(stats.pearsonr(outputs, labels).statistic) if vary else 0.0,
        "spearman": float(stats.spearmanr(outputs, labels).statistic) if vary else 0.0,
    }

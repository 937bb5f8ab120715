"""One real target: squared error."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.task import Answer, Mean, Task


def task() -> Task:
    """Least squares on the target as it stands (standardise it in the data if its scale is far from 1)."""
    return Task(
        outputs=_outputs,
        target="value",
        shapes=lambda n, outputs, fields: {"label": jax.ShapeDtypeStruct((n,), "float32")},
        loss=lambda outputs, batch, hparams: Mean(_squared_error(outputs, batch)),
        scores=_scores,
        gathered=_gathered,
        answer=lambda row, classes, example: Answer(value=float(row[0])),
        monitor="mse",
        metrics={"mae": False, "r2": True, "pearson": True, "spearman": True},
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
    return {"loss": Mean(square), "mse": Mean(square), "mae": Mean(jnp.sqrt(square))}


def _gathered(outputs: np.ndarray, split: Split) -> dict[str, float]:
    """R2 (1 - residual / total sum of squares) and both correlations; 0 where the targets or outputs are all equal."""
    outputs, labels = outputs[:, 0].astype(np.float64), split.labels.astype(np.float64)
    total = np.square(labels - labels.mean()).sum()
    vary = total > 0 and np.ptp(outputs) > 0
    return {
        "r2": float(1 - np.square(labels - outputs).sum() / total) if total > 0 else 0.0,
        "pearson": float(stats.pearsonr(outputs, labels).statistic) if vary else 0.0,
        "spearman": float(stats.spearmanr(outputs, labels).statistic) if vary else 0.0,
    }

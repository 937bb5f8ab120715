"""Optimizers: what becomes of a group's gradients, as chains of optax's transforms with traced hyperparameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from jaxfer.optim.leaves import leafwise

MUON_RMS = 0.2  # root mean square of AdamW's updates, about


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What an optimizer is made of.

    Attributes:
      momentum: [] decay of the first moment, b1 of Adam.
      b2: [] decay of the second.
      dtype: in which the first moment is kept.
      decay: adds each leaf's weight decay to its update: before the moments it is the gradient of an L2 penalty, after
        them it is decoupled.
      rate: multiplies each leaf's update by its rate now, and by -1.
      group_rate: [] the group's rate now.
      relative: multiplies each leaf's update by its rate as a multiple of the group's.
      hidden: {path: leading axes that it sums over} of the kernels between the first unit and the head.
    """

    momentum: jax.Array
    b2: jax.Array
    dtype: str
    decay: optax.GradientTransformation
    rate: optax.GradientTransformation
    group_rate: jax.Array
    relative: optax.GradientTransformation
    hidden: Mapping[str, int]

    def adam(self) -> optax.GradientTransformation:
        """Adam's moments (Kingma & Ba, 2014, arXiv:1412.6980)."""
        return optax.scale_by_adam(b1=self.momentum, b2=self.b2, mu_dtype=self.dtype)

    def trace(self, *, nesterov: bool = False) -> optax.GradientTransformation:
        """Momentum: the sum of updates, each earlier one less by `momentum`."""
        return optax.trace(decay=self.momentum, nesterov=nesterov, accumulator_dtype=self.dtype)


def _adamw(parts: Parts) -> optax.GradientTransformation:
    """Decoupled decay (Loshchilov & Hutter, 2017, arXiv:1711.05101)."""
    return optax.chain(parts.adam(), parts.decay, parts.rate)


def _adam(parts: Parts) -> optax.GradientTransformation:
    """Decay as an L2 penalty, which the second moment divides too."""
    return optax.chain(parts.decay, parts.adam(), parts.rate)


def _sgd(parts: Parts) -> optax.GradientTransformation:
    """Momentum of gradients and L2 penalty."""
    return optax.chain(parts.decay, parts.trace(), parts.rate)


def _nesterov(parts: Parts) -> optax.GradientTransformation:
    """SGD whose step looks one momentum ahead (Sutskever et al., 2013)."""
    return optax.chain(parts.decay, parts.trace(nesterov=True), parts.rate)


def _lion(parts: Parts) -> optax.GradientTransformation:
    """Signs of an interpolated moment; rates 3 to 10 times below AdamW's (Chen et al., 2023, arXiv:2302.06675)."""
    moments = optax.scale_by_lion(b1=parts.momentum, b2=parts.b2, mu_dtype=parts.dtype)
    return optax.chain(moments, parts.decay, parts.rate)


def _lamb(parts: Parts) -> optax.GradientTransformation:
    """AdamW, each leaf's update as long as the leaf (You et al., 2019, arXiv:1904.00962)."""
    return optax.chain(parts.adam(), parts.decay, optax.scale_by_trust_ratio(), parts.rate)


def _lars(parts: Parts) -> optax.GradientTransformation:
    """SGD, each leaf's gradient 0.001 times as long as the leaf; the momentum is of steps (arXiv:1708.03888)."""
    ratio = optax.scale_by_trust_ratio(trust_coefficient=0.001)
    return optax.chain(parts.decay, ratio, parts.rate, parts.trace())


def _adafactor(parts: Parts) -> optax.GradientTransformation:
    """Second moments as a row and a column, no first; RMS of a leaf's update at most 1 (arXiv:1804.04235).

    The rate is the config's, not relative to the leaf. `momentum` and `b2` are not read.
    """
    return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), parts.decay, parts.rate)


def _rmsprop(parts: Parts) -> optax.GradientTransformation:
    """PyTorch's form: no correction of the second moment, epsilon beside its root, then momentum."""
    moments = optax.scale_by_rms(decay=parts.b2, eps_in_sqrt=False)
    return optax.chain(parts.decay, moments, parts.trace(), parts.rate)


def _muon(parts: Parts) -> optax.GradientTransformation:
    """Hidden kernels: the momentum's nearest orthogonal matrix; all else: AdamW (Jordan et al., 2024).

    The matrix is scaled to the size of AdamW's updates (Liu et al., 2025, arXiv:2502.16982, eq. 4), so that both take
    the same rates and decay.
    """

    def dimensions(updates):
        def split(path: str, x):
            inputs = parts.hidden.get(path, 0)
            axes = MuonDimensionNumbers(tuple(range(inputs)), tuple(range(inputs, getattr(x, "ndim", 0))))
            return x if isinstance(x, optax.MaskedNode) else axes

        return {path: split(path, x) for path, x in updates.items()}

    def scaled(path: str, u: jax.Array, p: jax.Array) -> jax.Array:
        inputs = math.prod(u.shape[: parts.hidden[path]])
        return MUON_RMS * math.sqrt(max(inputs, u.size // inputs)) * u

    matrices = optax.contrib.scale_by_muon(
        beta=parts.momentum, mu_dtype=parts.dtype, weight_dimension_numbers=dimensions
    )
    by_kind = {"matrix": optax.chain(matrices, leafwise(scaled)), "other": parts.adam()}
    kinds = optax.partition(by_kind, lambda tree: {k: "matrix" if k in parts.hidden else "other" for k in tree})
    return optax.chain(kinds, parts.decay, parts.rate)


def _prodigy(parts: Parts) -> optax.GradientTransformation:
    """Adam that estimates its rate; `lr` multiplies the estimate and is 1 (Mishchenko & Defazio, arXiv:2306.06101).

    Each group has an estimate of its own. The decay is an L2 penalty. `momentum_dtype` is not read.
    """
    moves = parts.group_rate > 0  # at a rate of 0 the estimate would be 0 / 0
    rate = jnp.where(moves, parts.group_rate, 1.0)
    prodigy = optax.contrib.prodigy(rate, betas=(parts.momentum, parts.b2))
    return optax.chain(parts.decay, prodigy, parts.relative, leafwise(lambda path, u, p: jnp.where(moves, u, 0.0)))


OPTIMIZERS: dict[str, Callable[[Parts], optax.GradientTransformation]] = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
    "nesterov": _nesterov,
    "lion": _lion,
    "lamb": _lamb,
    "lars": _lars,
    "adafactor": _adafactor,
    "rmsprop": _rmsprop,
    "muon": _muon,
    "prodigy": _prodigy,
}

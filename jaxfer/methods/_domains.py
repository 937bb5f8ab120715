"""What methods of domain adaptation share: both domains' features, distances between them, and adversaries.

They read the stream `target`, whose labels are sealed. The backbone sees both domains in one pass, with batch
statistics of both (norms=joint), as TLlib's DANN, CDAN and MDD do; or each in a pass of its own, with its own
(norms=separate), as TLlib's DAN and the authors' MCD. Running statistics, which evaluation has for every domain, follow
the batches of both, in turn where these are apart, the target's last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfer.errors import InputError, nearest
from jaxfer.method import UNLABELLED, Context, Method, task_loss
from jaxfer.models.port import FEATURES, Port

STREAMS = {"target": UNLABELLED}
NORMS = JOINT, SEPARATE = "joint", "separate"
WIDTHS = MEDIAN, MEAN = "median", "mean"  # of squared distances, in which kernels' variances are counted


def apart(norms: str) -> bool:
    """Whether each domain has batch statistics of its own: the option `norms`, checked."""
    if norms not in NORMS:
        raise InputError(f"options.norms: expected {' or '.join(NORMS)}, found {norms!r}")
    return norms == SEPARATE


def check_vectors(name: str, port: Port) -> None:
    """`InputError` if the model's output layer reads more than one vector of an example."""
    if len(port.features) != 1:
        raise InputError(f"{name} compares one vector per example, this model's have the shape {port.features}")


def features(ctx: Context, tap: str = FEATURES) -> tuple[jax.Array, jax.Array]:
    """What the output layer (or another tap) has of the source's examples and of the target's, [batch, width] float32
    each."""
    source, target = ctx.taps[tap], ctx.streams["target"].taps[tap]
    return source.astype(jnp.float32), target.astype(jnp.float32)


def check_pairs(name: str, source: jax.Array, target: jax.Array) -> None:
    """`InputError` if a domain has one example a step, where the method needs pairs of them."""
    if min(len(source), len(target)) < 2:
        raise InputError(
            f"{name} compares pairs of examples of a domain: expected batches of at least 2, found {len(source)} of "
            f"the source and {len(target)} of the target; raise config.batch_size or config.stream.target.batch_size"
        )


def aligned(
    name: str,
    port: Port,
    distance: Callable[[jax.Array, jax.Array, Context, jax.Array], jax.Array],
    *,
    logged_as: str,
    norms: str,
    tasks: tuple[str, ...] = (),
    layers: tuple[str, ...] = (),
) -> Method:
    """Fine-tuning with a distance between the domains: loss + trade_off * distance.

    Args:
      name: of the method, for messages.
      port: the model.
      distance: (features of the source [batch, width], of the target, the step's context, its outputs) -> [].
      logged_as: what the distance is called among the metrics.
      norms: `joint` or `separate` batch statistics.
      tasks: that the method learns; empty: all.
      layers: units that are compared too: the mean over the places of what each gives, and the sum of the distances.
    """
    if unknown := [unit for unit in layers if unit not in port.units]:
        raise InputError(f"options.layers: no unit {unknown[0]!r}{nearest(str(unknown[0]), port.units)}")

    def init(params, key, given):
        check_vectors(name, port)
        return params, {}

    def vector(x):
        return x.reshape(len(x), -1, x.shape[-1]).mean(1)

    def loss(ctx, outputs):
        value, logged = task_loss(ctx, outputs)
        source, target = features(ctx)
        check_pairs(name, source, target)
        found = distance(source, target, ctx, outputs)
        for unit in layers:
            found += distance(*map(vector, features(ctx, unit)), ctx, outputs)
        return value + ctx.hparams["trade_off"] * found, {**logged, logged_as: found}

    return Method(
        rules=((f"{port.head}/.*", "head"), (".*", "backbone")),
        init=init,
        taps=(FEATURES, *layers),
        streams=STREAMS,
        separate=apart(norms),
        loss=loss,
        tasks=tasks,
        whole_batch=True,
        hparams={"lr": (1e-3, (1e-4, 3e-4, 1e-3, 3e-3)), "trade_off": (1.0, (0.1, 1.0, 10.0))},
    )


def covariance(x: jax.Array) -> jax.Array:
    """[n, width] -> [width, width], unbiased."""
    x = x - x.mean(0)
    return x.T @ x / (len(x) - 1)


def gaussian(x: jax.Array, **how: Any) -> jax.Array:
    """[n, width] -> [n, n]: the sum of the kernels of `gaussians`."""
    return sum(gaussians(x, **how))


def gaussians(
    x: jax.Array, *, multiples: Sequence[float] = (), variance: float = 0.0, width: str = MEAN
) -> list[jax.Array]:
    """[n, width] -> Gaussian kernels exp(-|a - b|^2 / (2 s^2)), [n, n] each.

    Args:
      x: of both domains.
      multiples: s^2 of each kernel, as multiples of a width of the squared distances, through which no gradient goes.
      variance: s^2 of one more kernel; 0: no such one.
      width: `mean`: of all distances, those of 0 to itself included, as in TLlib; `median`: of all pairs.
    """
    x = x - x.mean(0)  # distances stay the same, and little is lost below
    size = jnp.square(x).sum(-1)
    apart = jnp.maximum(size[:, None] + size[None, :] - 2 * x @ x.T, 0.0)
    still = jax.lax.stop_gradient(apart)
    pairs = still[np.triu_indices(len(x), 1)]
    # The median is 0 where most examples are equal.
    unit = jnp.maximum(jnp.median(pairs), 1e-12) if width == MEDIAN else still.mean()
    variances = [multiple * unit for multiple in multiples] + ([variance] if variance else [])
    return [jnp.exp(-apart / (2 * each)) for each in variances]


def discrepancy(kernel: jax.Array, sources: int) -> jax.Array:
    """The unbiased estimate of the squared maximum mean discrepancy, plus 1 / (n - 1) for each domain of n examples.

    The constant keeps it from falling below 0, as in TLlib; it has no gradient.

    Args:
      kernel: [n, n] of both domains' examples.
      sources: how many of them, the first ones, are the source's.
    """
    targets = len(kernel) - sources
    source, target, between = kernel[:sources, :sources], kernel[sources:, sources:], kernel[:sources, sources:]
    inside = sum(
        (block.sum() - jnp.trace(block)) / (n * (n - 1)) for block, n in ((source, sources), (target, targets))
    )
    return inside - 2 * between.mean() + 1 / (sources - 1) + 1 / (targets - 1)


def in_pairs(kernel: jax.Array, sources: int) -> jax.Array:
    """The unbiased estimate of the squared discrepancy by disjoint pairs: the mean of `quadruples`.

    It may fall below 0. Its kernels are as many as the examples; the width takes all distances besides.
    """
    return quadruples(kernel, sources).mean()


def quadruples(kernel: jax.Array, sources: int) -> jax.Array:
    """[quadruples]: k(s, s') + k(t, t') - k(s, t') - k(s', t) of disjoint quadruples of two examples of each domain.

    Gretton et al., 2012, "A Kernel Two-Sample Test", section 6. They are taken in the batch's order, and examples left
    over are not read.

    Args:
      kernel: [n, n] of both domains' examples.
      sources: how many of them, the first ones, are the source's.
    """
    s = 2 * np.arange(min(sources, len(kernel) - sources) // 2)
    t = sources + s
    return kernel[s, s + 1] + kernel[t, t + 1] - kernel[s, t + 1] - kernel[s + 1, t]


ESTIMATES = {"linear": in_pairs, "all": discrepancy}


def check_kernels(width: str, estimate: str) -> None:
    """`InputError` unless `dan` and `jan` know these."""
    for name, given, known in (("width", width, WIDTHS), ("estimate", estimate, ESTIMATES)):
        if given not in known:
            raise InputError(f"options.{name}: expected {' or '.join(known)}, found {given!r}")


def entropies(chances: jax.Array) -> jax.Array:
    """[n, classes] -> [n]; the logarithm is of 1e-5 more, as in TLlib."""
    return -(chances * jnp.log(chances + 1e-5)).sum(-1)


def rising(ctx: Context) -> jax.Array:
    """2 / (1 + exp(-slope * progress)) - 1: 0 at first, then ever slower towards 1.

    TLlib's rises by steps and not by their share, exp(-step / 1000): here `slope` is then a thousandth of the steps.
    """
    progress = ctx.step / ctx.hparams["total_steps"]
    return 2 / (1 + jnp.exp(-ctx.hparams["slope"] * progress)) - 1


def reverse(x: jax.Array, strength: jax.Array) -> jax.Array:
    """x, whose gradient is multiplied by -strength."""
    return jax.lax.stop_gradient((1 + strength) * x) - strength * x


def told_apart(
    logits: jax.Array, sources: int, weights: jax.Array | None = None, jointly: bool = False
) -> tuple[jax.Array, jax.Array]:
    """(the mean of both domains' cross-entropies, the share of examples whose domain is found).

    Args:
      logits: [n] of a discriminator, positive for the source.
      sources: how many of them, the first ones, are the source's.
      weights: [n] of the examples; None: all alike. No gradient goes through their sums.
      jointly: whether the weighted mean is taken over both domains at once, and not over each.
    """
    domain = jnp.concatenate([jnp.ones(sources), jnp.zeros(len(logits) - sources)])
    each, right = optax.sigmoid_binary_cross_entropy(logits, domain), ((logits > 0) == (domain > 0)).mean()
    if weights is None:
        return 0.5 * (each[:sources].mean() + each[sources:].mean()), right
    fixed = jax.lax.stop_gradient(weights)
    if jointly:
        return (weights * each).sum() / fixed.sum(), right
    source, target = (weights * each)[:sources].sum(), (weights * each)[sources:].sum()
    return 0.5 * (source / fixed[:sources].sum() + target / fixed[sources:].sum()), right

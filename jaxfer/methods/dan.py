"""DAN: features whose distributions in both domains have the same means in a kernel's space.

Long et al., 2015, "Learning Transferable Features with Deep Adaptation Networks", arXiv:1502.02791, eq. 4: loss +
trade_off * MMD^2 under a mixture of Gaussian kernels (eq. 2), estimated in linear time by disjoint pairs (eq. 5). Their
variances lie around the median squared distance, 2^-8 to 2^8 times it by factors of the root of 2 (section 4.1): here
the median is of each step's examples, there of all training examples.

The paper learns the kernels' weights (eqs. 7 and 8) and sums over its last three layers, `learned` and `layers`; by
default each of m kernels has 1 / m, and what the output layer reads is compared. Learned are those weights of which the
discrepancy is largest for its standard deviation, of each step's quadruples.

TLlib's form: width=mean and estimate=all, the sum of five kernels around the mean squared distance, by all pairs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfer.errors import InputError
from jaxfer.method import Method
from jaxfer.methods import _domains
from jaxfer.models.port import Port

MULTIPLES = (0.125, 0.25, 0.5, 1.0, 2.0)  # TLlib's
RIDGE, STEPS = 1e-3, 500  # of eq. 8
OF_MEDIAN = tuple(2.0 ** (k / 2) / 2 for k in range(-16, 17))  # halves: the paper's kernel is exp(-distance / width)


def method(
    port: Port,
    *,
    width: str = "median",
    estimate: str = "linear",
    multiples: tuple[float, ...] | None = None,
    learned: bool = False,
    layers: tuple[str, ...] = (),
    norms: str = "joint",
) -> Method:
    """Groups: `head`, `backbone`. Hparam: `trade_off`. Reads the stream `target`.

    Args:
      port: the model.
      width: `median` of the squared distances of a step's features, and the mean of the kernels; `mean`: of these
        distances, and the kernels' sum, as in TLlib.
      estimate: `linear`: by disjoint pairs; `all`: by all of them, with a constant that keeps it above 0, as in TLlib.
      multiples: the kernels' variances, as multiples of the width; None: the paper's 33, or TLlib's 5.
      learned: whether the kernels' weights are learned, for `estimate=linear` and `width=median`.
      layers: units that are compared too; of what has places, the mean over them.
      norms: as in `_domains`: `joint` or `separate`, which is TLlib's.
    """
    _domains.check_kernels(width, estimate)
    if multiples is not None and (not multiples or min(multiples) <= 0):
        raise InputError(f"options.multiples: expected numbers above 0, found {multiples}")

    if learned and (estimate, width) != ("linear", _domains.MEDIAN):
        raise InputError(
            f"options.learned: expected estimate=linear and width=median, found {estimate} and {width}; others have no "
            "weights to learn"
        )

    def apart(source, target, ctx, outputs):
        if not learned:
            return _domains.ESTIMATES[estimate](kernel(source, target, width, multiples), len(source))
        if min(len(source), len(target)) < 4:
            found = f"{len(source)} of the source and {len(target)} of the target"
            raise InputError(f"dan: learned weights compare quadruples: expected batches of at least 4, found {found}")
        kernels = _domains.gaussians(jnp.concatenate([source, target]), multiples=multiples or OF_MEDIAN, width=width)
        each = jnp.stack([_domains.quadruples(kernel, len(source)) for kernel in kernels])
        return weights(jax.lax.stop_gradient(each)) @ each.mean(1)

    return _domains.aligned("dan", port, apart, logged_as="mmd", norms=norms, layers=layers)


def weights(each: jax.Array) -> jax.Array:
    """[kernels]: at least 0, with a sum of 1, that maximise the discrepancy over its standard deviation.

    Eq. 8 is min b (Q + 0.001 I) b over b >= 0 with d b = 1, which has the direction of min b (Q + 0.001 I) b / 2 - d b
    over b >= 0. That is found by accelerated projected gradient (Beck and Teboulle, 2009). Where no kernel tells the
    domains apart, all are equal.

    Args:
      each: [kernels, quadruples], whose mean is d and whose differences, of two quadruples each, give Q.
    """
    d, pairs = each.mean(1), each.shape[1] // 2
    apart = each[:, 0 : 2 * pairs : 2] - each[:, 1 : 2 * pairs : 2]
    q = apart @ apart.T / pairs + RIDGE * jnp.eye(len(each))
    rate = 1 / jnp.trace(q)  # at least the largest eigenvalue

    def step(_, kept):
        now, ahead, t = kept
        after = jnp.maximum(ahead - rate * (q @ ahead - d), 0)
        # Momentum that points uphill starts anew (O'Donoghue and Candes, 2015).
        t = jnp.where((ahead - after) @ (after - now) > 0, 1.0, t)
        longer = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return after, after + (t - 1) / longer * (after - now), longer

    begin = jnp.zeros_like(d)
    found, _, _ = jax.lax.fori_loop(0, STEPS, step, (begin, begin, jnp.ones((), d.dtype)))
    total = found.sum()
    return jnp.where(total > 0, found / jnp.where(total > 0, total, 1), 1 / len(d))


def kernel(source: jax.Array, target: jax.Array, width: str, multiples: tuple[float, ...] | None = None) -> jax.Array:
    """[n, n] of the features of both domains: the mean of the kernels around the median, the sum around the mean."""
    multiples = multiples or (OF_MEDIAN if width == _domains.MEDIAN else MULTIPLES)
    found = _domains.gaussian(jnp.concatenate([source, target]), multiples=multiples, width=width)
    return found / len(multiples) if width == _domains.MEDIAN else found

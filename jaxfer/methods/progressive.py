"""Progressive networks: a new network beside the source's, which is frozen and lends it what each of its units gives.

Rusu et al., 2016, "Progressive Neural Networks", arXiv:1606.04671, eq. 2 for two columns: a unit of the new column
reads h + U relu(V (gate * s)), where h is what the unit before it gave, s what that unit of the source gave for the
same examples, and the gate a learned number. Nothing of the source is forgotten; a new task costs a whole network.

The paper adds to what a layer gives before its nonlinearity; units here are whole blocks, so this adds to what they
read, the output layer included. U starts at zero, so that the new column is alone at first, and the gate at 0.1: at 0
the ReLU would let no gradient through, the paper draws a small number. The paper's third column reads both earlier
ones; here there are two, the run's source and its own, so a third task begins from the first one's run again. Running
statistics of the new column start as the source's.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxfer import rules
from jaxfer.errors import InputError, nearest
from jaxfer.method import Method, without
from jaxfer.methods._columns import column
from jaxfer.models.layers import like
from jaxfer.models.passes import FEATURES
from jaxfer.models.port import Port

STARTS = ("fresh", "copy")


def method(port: Port, *, bottleneck: int = 32, gate: float = 0.1, start: str = "fresh") -> Method:
    """Groups: `lateral`, `head`, `column`, which is the new one.

    Args:
      port: the model, of both columns.
      bottleneck: channels between V and U.
      gate: what each gate starts at.
      start: what the new column starts as: `fresh`, the paper's, or `copy`, the source, where there is little to train
        a network on.
    """
    if bottleneck < 1:
        raise InputError(f"progressive: expected bottleneck >= 1, found {bottleneck}")
    if gate == 0:
        raise InputError("progressive: expected a gate other than 0, which would let no gradient through")
    if start not in STARTS:
        raise InputError(f"progressive: unknown start {start!r}{nearest(str(start), STARTS)}")
    lent = {site: before for before, site in zip(port.units[:-2], port.units[1:-1], strict=True)}
    lent |= {port.head: FEATURES} if port.outputs else {}  # {where the new column reads more: the source's tap}

    def is_head(path):
        return path.startswith(f"{port.head}/")

    def init(params, key, given):
        batch = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), port.example(2))
        shapes = jax.eval_shape(lambda: port.forward(params, given.model_state, batch, taps=(*lent.values(),)).taps)
        pairs = [tap for tap, shape in shapes.items() if not hasattr(shape, "shape")]
        if pairs:
            raise InputError(f"progressive: adds to one array, unit {pairs[0]!r} gives several; use full or lora")
        keys, laterals = jax.random.split(key, len(lent) + 1), {}
        for (site, tap), own in zip(lent.items(), keys[1:], strict=True):
            width = shapes[tap].shape[-1]
            down = math.sqrt(2 / width) * jax.random.normal(own, (width, bottleneck))
            laterals[f"{site}/gate/scale"] = jnp.full(1, gate)  # a scale: no decay draws it to zero
            laterals |= {f"{site}/down/kernel": down, f"{site}/down/bias": jnp.zeros(bottleneck)}
            laterals[f"{site}/up/kernel"] = jnp.zeros((bottleneck, width))
        leaves = rules.flatten(params)
        column = rules.flatten(port.init(keys[0], batch)[0]) if start == "fresh" else leaves
        column = {path: leaf if is_head(path) else column[path] for path, leaf in leaves.items()}
        source = {"params": leaves, "norms": given.model_state}
        return {**rules.unflatten(column), "progressive": rules.unflatten(laterals)}, {"source": source}

    def intercept(params, extra):
        leaves, taps, inside = rules.flatten(params["progressive"]), {}, []
        source = {"params": rules.unflatten(extra["source"]["params"]), **extra["source"]["norms"]}

        def given(tap, site):  # U relu(V (gate * s))
            s = taps[tap]
            scale, kernel, bias, up = (
                like(leaves[f"{site}/{name}"], s) for name in ("gate/scale", "down/kernel", "down/bias", "up/kernel")
            )
            return jax.nn.relu((scale * s) @ kernel + bias) @ up

        def lend(next_fun, args, kwargs, context):
            site = "/".join(context.module.path)
            if inside or context.method_name != "__call__" or site and site not in lent:
                return next_fun(*args, **kwargs)
            if site:
                return next_fun(args[0] + like(given(lent[site], site), args[0]), *args[1:], **kwargs)
            inside.append(True)
            try:
                taps.update(column("progressive", context.module, source, (args, kwargs), (*lent.values(),), port.head))
            finally:
                inside.clear()
            return next_fun(*args, **kwargs)

        return lend

    return Method(
        rules=(("progressive/.*", "lateral"), (f"{port.head}/.*", "head"), (".*", "column")),
        init=init,
        view=without("progressive"),
        intercept=intercept,
        merge=None,
        hparams={"lr": (1e-3, (3e-4, 1e-3, 3e-3))},
    )

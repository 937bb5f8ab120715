"""Progressive networks: a new network beside the source's, which is frozen and lends it what each of its units gives.

Rusu et al., 2016, "Progressive Neural Networks", arXiv:1606.04671, eq. 2: a unit of column k reads h + U relu(V s),
where h is what the unit before it gave, and s what that unit of columns 1 to k - 1 gave for the same examples, each
times a learned number, its gate, and all concatenated. Nothing of earlier columns is forgotten; a new task costs a
whole network and adapters that read all before it, and the checkpoints of a run hold all of its columns.

A run has two columns, the source's and its own. One that starts from a run of this method goes on from it: it has all
of that run's columns, frozen, each with the adapters by which it reads those before it, and one more.

The paper adds to what a layer gives before its nonlinearity; units here are whole blocks, so this adds to what they
read, the output layer included. U starts at zero, so that the new column is alone at first, and gates at 0.1: at 0
the ReLU would let no gradient through, the paper draws a small number. Running statistics of the new column start as
the source's.
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
NETWORK = Method(rules=())  # a source of one column, of which nothing more is handed on


def method(
    port: Port, *, bottleneck: int = 32, gate: float = 0.1, start: str = "fresh", source_columns: int = 1
) -> Method:
    """Groups: `lateral`, `head`, `column`, which is the new one.

    Args:
      port: the model, of all columns.
      bottleneck: channels between V and U; those of a source of this method.
      gate: what each gate starts at.
      start: what the new column starts as: `fresh`, the paper's, or `copy`, the source's own column, where there is
        little to train a network on.
      source_columns: columns of the source, found from `config.init`: those of a run of this method, else one.
    """
    if bottleneck < 1:
        raise InputError(f"progressive: expected bottleneck >= 1, found {bottleneck}")
    if gate == 0:
        raise InputError("progressive: expected a gate other than 0, which would let no gradient through")
    if start not in STARTS:
        raise InputError(f"progressive: unknown start {start!r}{nearest(str(start), STARTS)}")
    if source_columns < 1:
        raise InputError(f"progressive: expected source_columns >= 1, found {source_columns}; leave it out")
    lent = {site: before for before, site in zip(port.units[:-2], port.units[1:-1], strict=True)}
    lent |= {port.head: FEATURES} if port.outputs else {}  # {where a column reads more: the tap of those before it}

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
            read = source_columns * width
            down = math.sqrt(2 / read) * jax.random.normal(own, (read, bottleneck))
            laterals[f"{site}/gate/scale"] = jnp.full(source_columns, gate)  # a scale: no decay draws it to zero
            laterals |= {f"{site}/down/kernel": down, f"{site}/down/bias": jnp.zeros(bottleneck)}
            laterals[f"{site}/up/kernel"] = jnp.zeros((bottleneck, width))
        leaves = rules.flatten(params)
        column = rules.flatten(port.init(keys[0], batch)[0]) if start == "fresh" else leaves
        column = {path: leaf if is_head(path) else column[path] for path, leaf in leaves.items()}
        source = {"params": leaves, "norms": given.model_state, **(given.former or {})}
        return {**rules.unflatten(column), "progressive": rules.unflatten(laterals)}, {"source": source}

    def former(params, extra):  # what the source of the next run has beside its parameters
        shared = {path: leaf for path, leaf in extra["source"]["params"].items() if not is_head(path)}
        return {"laterals": rules.flatten(params["progressive"]), "source": {**extra["source"], "params": shared}}

    def adding(laterals, before):  # interceptor by which a column reads those before it: h + U relu(V s)
        def add(next_fun, args, kwargs, context):
            site = "/".join(context.module.path)
            if context.method_name != "__call__" or site not in lent:
                return next_fun(*args, **kwargs)
            read = [taps[lent[site]] for taps in before]
            gates, kernel, bias, up = (
                like(laterals[f"{site}/{name}"], read[0])
                for name in ("gate/scale", "down/kernel", "down/bias", "up/kernel")
            )
            s = jnp.concatenate([gates[i : i + 1] * h for i, h in enumerate(read)], -1)
            given = jax.nn.relu(s @ kernel + bias) @ up
            return next_fun(args[0] + like(given, args[0]), *args[1:], **kwargs)

        return add

    def intercept(params, extra):
        before, inside = [], []
        add = adding(rules.flatten(params["progressive"]), before)
        heads = {path: leaf for path, leaf in extra["source"]["params"].items() if is_head(path)}  # of any, unread

        def taps(source, *call):  # of all its columns, the first one's first
            earlier = taps(source["source"], *call) if "source" in source else []
            reads = adding(source["laterals"], earlier) if earlier else None
            variables = {"params": rules.unflatten({**heads, **source["params"]}), **source["norms"]}
            module, *given = call
            return [*earlier, column("progressive", module, variables, given, (*lent.values(),), port.head, reads)]

        def lend(next_fun, args, kwargs, context):
            if inside:
                return next_fun(*args, **kwargs)
            if context.method_name == "__call__" and not context.module.path:  # the whole network
                inside.append(True)
                try:
                    before[:] = taps(extra["source"], context.module, args, kwargs)
                finally:
                    inside.clear()
            return add(next_fun, args, kwargs, context)

        return lend

    less = {"bottleneck": bottleneck, "gate": gate, "start": start, "source_columns": source_columns - 1}
    return Method(
        rules=(("progressive/.*", "lateral"), (f"{port.head}/.*", "head"), (".*", "column")),
        init=init,
        former=former,
        follows=method(port, **less) if source_columns > 1 else NETWORK,
        view=without("progressive"),
        intercept=intercept,
        merge=None,
        hparams={"lr": (1e-3, (3e-4, 1e-3, 3e-3))},
    )

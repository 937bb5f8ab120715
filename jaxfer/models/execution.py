"""How a chain of units is executed: precision, rematerialisation, sharding of activations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxfer.models.attention import DotProductAttention
from jaxfer.models.layers import BatchNorm

NORMS = (BatchNorm, nn.BatchNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.InstanceNorm)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """Execution settings of a pass, from the stage and its devices.

    Attributes:
      dtypes: ((unit, type name), ...) of the units that compute in less than float32. Their products run in that type
        and what passes between their layers has it; parameters, norms, softmax and the output layer stay in float32.
      remat: units that keep only their input for the backward pass and recompute the rest
        (Chen et al., 2016, arXiv:1604.06174).
      boundary: the sharding of a unit's outputs, each array of them, along the batch axis; None leaves it to the
        compiler, which replicates activations where parameters are sharded.
      batched: how examples lie on the devices of the pass, for attention's fused kernels, which the compiler does not
        partition; None leaves them out.
    """

    dtypes: tuple[tuple[str, str], ...] = ()
    remat: frozenset[str] = frozenset()
    boundary: NamedSharding | None = None
    batched: NamedSharding | None = None

    def run(self, unit: nn.Module, x: Any, *, train: bool, side: dict[str, Any]) -> Any:
        """Runs one unit on its input: an array [batch, ...], or a pytree of such."""

        def call(unit, x):
            return unit(x, train=train, **side)

        y = (nn.remat(call) if train and unit.name in self.remat else call)(unit, x)
        return y if self.boundary is None else jax.lax.with_sharding_constraint(y, self.boundary)

    def tables(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The parameters with flax's embedding tables unsplit in width.

        A lookup inherits its table's sharding: with a table split by width, XLA would replicate the batch.
        """
        if self.boundary is None:
            return params
        whole = NamedSharding(self.boundary.mesh, PartitionSpec(PartitionSpec.UNCONSTRAINED, None))

        def held(name: str, leaf: Any) -> Any:
            if isinstance(leaf, Mapping):
                return self.tables(leaf)
            table = name == "embedding" and leaf.ndim == 2
            return jax.lax.with_sharding_constraint(leaf, whole) if table else leaf

        return {name: held(name, leaf) for name, leaf in params.items()}

    def interceptors(self, head: str, between: Iterable[Callable[..., Any]]) -> Iterator[Callable[..., Any]]:
        """The interceptors of a pass, outermost first: casts to unit types, the method's own, float32 islands, where
        attention runs."""
        if self.dtypes:
            yield self._types(head)
        yield from between
        if self.dtypes:
            yield self._islands(head)
        if self.batched is not None:
            yield self._placed

    def _placed(self, next_fun: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        """Attention learns of the devices."""
        if isinstance(context.module, DotProductAttention) and context.method_name == "__call__":
            kwargs = {**kwargs, "batched": self.batched}
        return next_fun(*args, **kwargs)

    def _types(self, head: str) -> Callable[..., Any]:
        """A unit takes, and each module of it gives, the unit's type; what a method adds to a layer is cast too."""
        dtypes = dict(self.dtypes)

        def intercept(next_fun, args, kwargs, context):
            path = context.module.path
            if not path or context.method_name != "__call__":
                return next_fun(*args, **kwargs)
            dtype = dtypes.get(path[0], "float32")
            if len(path) == 1:
                args = (_cast(args[0], dtype), *args[1:])
            y = next_fun(*args, **kwargs)
            gives_outputs = f"{head}/".startswith("/".join(path) + "/") or _within(path, head)
            return y if gives_outputs else _cast(y, dtype)

        return intercept

    def _islands(self, head: str) -> Callable[..., Any]:
        """Norms and the output layer compute in float32."""
        dtypes = dict(self.dtypes)

        def intercept(next_fun, args, kwargs, context):
            path = context.module.path
            low = path and path[0] in dtypes and context.method_name == "__call__"
            if low and (isinstance(context.module, NORMS) or _within(path, head)):
                args = (_cast(args[0], "float32"), *args[1:])
            return next_fun(*args, **kwargs)

        return intercept


PLAIN = Execution()


def _within(path: tuple[str, ...], head: str) -> bool:
    return f"{'/'.join(path)}/".startswith(f"{head}/")


def _cast(tree: Any, dtype: str) -> Any:
    def cast(x: Any) -> Any:
        return x.astype(dtype) if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)

"""The neck: a bottleneck between a model's features and its output layer, as networks of domain adaptation have one.

Any model with a pooled head takes it: `config.model.neck=256`. It is trained with the backbone, and a run that starts
from the run has it too; for a checkpoint from elsewhere, which has none, it is drawn. The output layer, and every
method that looks at features, reads what the neck gives. With `neck_hidden` it has a second part, a hidden layer: the
output layer then is the last of two, and `mdd`, whose two heads are such, shares what is below both.

| as in | options of `config.model` |
|---|---|
| TLlib's DANN, CDAN, MCC, DAN, JAN, CORAL | `neck=256` |
| SHOT (arXiv:2002.08546), whose source has `adds=("weight_norm",)` | `neck=256, neck_relu=False` |
| MDD (arXiv:1904.05801) | `neck=1024, neck_hidden=1024, neck_dropout=0.5` |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax

from jaxfer.errors import InputError
from jaxfer.models.heads import POOLED
from jaxfer.models.layers import BatchNorm, Dense
from jaxfer.models.options import Options, option, rate
from jaxfer.models.passes import BOTTLENECK, FEATURES, Interceptor

NAME = "neck"


def _width(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{name} must be a width, or 0 for none, found {value!r}; give e.g. {name}=256")


@dataclass(frozen=True, kw_only=True)
class Common(Options):
    """Options that every model has besides its own.

    Attributes:
      neck: width of the bottleneck; 0: there is none.
      neck_relu: whether a ReLU follows its batch norm.
      neck_hidden: width of a hidden layer, with a ReLU, between it and the output layer; 0: there is none.
      neck_dropout: drop rate of what each of the two gives.
    """

    neck: int = option(0, _width)
    neck_relu: bool = option(True)
    neck_hidden: int = option(0, _width)
    neck_dropout: float = rate(0.0)

    def check(self) -> None:
        plain = self.neck_relu and not self.neck_dropout and not self.neck_hidden
        if not self.neck and not plain:
            raise InputError(
                "neck_relu, neck_hidden and neck_dropout are of a neck, and there is none; set neck, e.g. neck=256"
            )


OPTIONS = tuple(field.name for field in dataclasses.fields(Common))


class Neck(nn.Module):
    """[batch, features] -> [batch, width]: a dense layer, batch norm, ReLU, dropout.

    With `hidden`, -> [batch, hidden]: then a dense layer, ReLU and dropout.
    """

    width: int
    relu: bool = True
    hidden: int = 0
    dropout: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Dense((self.width,), name="dense")(x)
        x = BatchNorm(axis_name=self.axis_name, name="norm")(x, use_running_average=not train)
        x = nn.relu(x) if self.relu else x
        x = nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)
        if not self.hidden:
            return x
        x = nn.relu(Dense((self.hidden,), name="hidden")(x))
        return nn.Dropout(self.dropout, name="hidden_drop")(x, deterministic=not train)


def path(head: str) -> str:
    """Path of the neck's parameters, beside the output layer at `head`."""
    return f"{head.rpartition('/')[0]}/{NAME}"


def kernels(neck: Neck, head: str) -> tuple[str, ...]:
    """Paths of its kernels, beside the output layer at `head`."""
    return tuple(f"{path(head)}/{name}/kernel" for name in ("dense", *(["hidden"] if neck.hidden else [])))


def facts(port: Any) -> tuple[int, bool, int] | None:
    """(width, whether it has a ReLU, width of its hidden layer) of a model's neck, None for none: what its output layer
    depends on."""
    return port.neck and (port.neck.width, port.neck.relu, port.neck.hidden)


def bottleneck(port: Any) -> tuple[str, int]:
    """(tap, width) of what a hidden layer of the neck reads; of what the output layer reads, if there is none."""
    if port.neck is not None and port.neck.hidden:
        return BOTTLENECK, port.neck.width
    return FEATURES, port.features[0]


def leaves(port: Any, shapes: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of the neck among a model's leaves, `params/...` and its norm's statistics; () for a model without one."""
    if port.neck is None:
        return ()
    return tuple(leaf for leaf in shapes if leaf.split("/", 1)[1].startswith(f"{path(port.head)}/"))


def added(port: Any, options: Common) -> Any:
    """The model, a port, with the neck that its options ask for.

    Raises:
      InputError: its output layer does not read one vector of an example.
    """
    if not options.neck:
        return port
    pooled = port.outputs and getattr(port.module, "head", POOLED) == POOLED and "/" in port.head
    if not pooled or len(port.features) != 1:
        raise InputError(
            "config.model.neck: it stands between one vector of an example and a pooled output layer, which this model "
            "does not have for this task; set config.model.neck=0"
        )
    neck = Neck(options.neck, relu=options.neck_relu, hidden=options.neck_hidden, dropout=options.neck_dropout)
    return port.with_neck(neck)


def before(neck: Neck, head: str) -> Interceptor:
    """Interceptor that has the output layer at `head` read what the neck makes of its input."""
    modes: list[bool] = []  # of the passes under way: one may run inside another

    def intercept(next_fun, args, kwargs, context):
        module = context.module
        if context.method_name != "__call__" or (module.path and "/".join(module.path) != head):
            return next_fun(*args, **kwargs)
        if module.path:
            scope = module.scope.parent.push(NAME, reuse=True)
            return next_fun(neck.clone(parent=scope)(args[0], train=modes[-1]), *args[1:], **kwargs)
        modes.append(kwargs.get("train", False))
        try:
            return next_fun(*args, **kwargs)
        finally:
            modes.pop()

    return intercept

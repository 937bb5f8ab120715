"""Port: the interface of a model family. Parameters in, outputs out; flax stays behind it.

A port's module is a chain of units in depth order (`stem`, `block_0`, ..., `head`), callable from any unit to any
later one, and the first component of every parameter path is the name of its unit. Layer decay, unfreezing, cuts and
LoRA all speak in units. What passes from unit to unit is an array or a pytree of them: two towers' activations, or a
memory and a decoder's stream.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfer import rules
from jaxfer.data.encoding import Encoding
from jaxfer.data.encodings.stored import StoredEncoding
from jaxfer.data.order import numbered
from jaxfer.errors import InputError, nearest
from jaxfer.models import neck as necks
from jaxfer.models import parts
from jaxfer.models.execution import PLAIN, Execution
from jaxfer.models.parts import Part
from jaxfer.models.passes import BOTTLENECK, FEATURES, TAPS, Interceptor, Training, given, policy, tapped
from jaxfer.rules import Rules

Params = Mapping[str, Any]


class Passed(NamedTuple):
    """What a forward pass gives.

    Attributes:
      outputs: of the last unit that ran: an array of the whole model, a pytree of a unit that passes one on.
      model_state: after the pass.
      taps: {name: activation} of those that were asked for, likewise.
    """

    outputs: Any
    model_state: Params
    taps: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Port:
    """One model family at one size: a linen module and the facts that transfer needs.

    Attributes:
      module: the chain of units; hashable, holds no arrays; its `outputs` is the width of the head.
      units: names of the units, from the input to the head.
      head: path of the module that a new task replaces (`head/out`); it reads one array.
      input_axes: rules, kernel path -> how many leading axes of the kernel are summed over.
      encodings: how examples become its inputs. The first field of the first one is the module's `x`; all other fields
        are passed by name to every unit.
      no_decay: parameters that weight decay leaves alone.
      tensor_axes: rules, parameter path -> the axis that is split where one layer is computed by several devices
        (attention heads, the MLP's width, the vocabulary, a convolution's output channels); None: whole on each.
      execution: how a pass is executed; families keep the default.
      depths: of each unit, where the place in the chain does not say it: two towers of two units each, one after the
        other, and their head have (2, 1, 2, 1, 0). None: units between it and the last one.
      feature_parts: names of the equal parts, side by side, of what the output layer reads: of a vision transformer the
        blocks whose class tokens they are, and `mean` of the last one's patches. (): it has none.
      parts: heads for the tasks of other streams, a port each; `init` draws them too.
      part: of such a port, where its own parameters lie.
      whole: of a port whose passes begin at stored activations (`beginning`), the one that reads examples.
      start: of such a port, the unit that reads them, or `features`: the output layer.
      neck: a bottleneck before the output layer, which has its parameters beside it; None: there is none.
      rows: ((leaf, names of its rows), ...) of leaves with a row for each column of a table, or for each value of one:
        a model of another table takes those of the same names (`config.differs`).
    """

    module: nn.Module
    units: tuple[str, ...]
    head: str
    input_axes: Rules[int]
    encodings: tuple[Encoding, ...]
    no_decay: Rules[float] = ((r".*/(bias|scale)", 0.0), (".*", 1.0))
    tensor_axes: Rules[int | None] = ((".*", None),)
    execution: Execution = PLAIN
    depths: tuple[int, ...] | None = None
    feature_parts: tuple[str, ...] = ()
    parts: tuple[Port, ...] = ()
    part: Part | None = None
    whole: Port | None = None
    start: str | None = None
    rows: tuple[tuple[str, tuple[str, ...]], ...] = ()
    neck: necks.Neck | None = None

    def init(self, key: jax.Array, batch: Mapping[str, Any]) -> tuple[Params, Params]:
        """Fresh (params, model_state), both nested dicts; `batch` gives shapes only."""
        x, side = self._inputs(batch)
        with contextlib.ExitStack() as entered:
            for interceptor in self._neck():
                entered.enter_context(nn.intercept_methods(interceptor))
            variables = dict(self.module.init({"params": key}, x, train=False, **side))
        params = variables.pop("params")
        for port in self.parts:
            drawn, _ = port.init(jax.random.fold_in(key, numbered(port.part.name)), batch)
            params = parts.added(params, port.part, port.part.stored(drawn))
        return params, variables

    def apply(
        self,
        params: Params,
        model_state: Params,
        batch: Mapping[str, Any],
        *,
        training: Training | None = None,
        intercept: Interceptor | None = None,
        begin: str | None = None,
        end: str | None = None,
    ) -> tuple[Any, Params]:
        """Runs units `begin` to `end` (both included; default all).

        Args:
          params: at least the parameters of the units that run, and those they share with earlier ones.
          model_state: running statistics, `{}` where the family has none.
          batch: the port's input fields, [batch, ...]; with `begin`, the first holds that unit's input instead, as the
            unit before gives it: an array [batch, ...], or a pytree of them.
          training: None for evaluation.
          intercept: a method's activation-space change, a `flax.linen` interceptor.

        Returns:
          (outputs of the last unit, model_state after the pass). Where the texts of a pair are read apart, units see
          [2 * batch, ...], and the outputs of the whole model are [batch, 2, width].
        """
        return self.forward(params, model_state, batch, training=training, intercept=intercept, begin=begin, end=end)[
            :2
        ]

    def forward(
        self,
        params: Params,
        model_state: Params,
        batch: Mapping[str, Any],
        *,
        training: Training | None = None,
        intercept: Interceptor | None = None,
        begin: str | None = None,
        end: str | None = None,
        taps: tuple[str, ...] = (),
    ) -> Passed:
        """`apply` that also gives activations.

        Args:
          taps: names of units, for what they give; `features`, for what the output layer reads; `bottleneck`, for what
            a neck's hidden layer reads: [batch, ...] each, [2 * batch, ...] where the texts of a pair are read apart.
            A unit that gives a pytree has one as its tap.

        Raises:
          InputError: a tap that is none of these.
        """
        hidden = f"{necks.path(self.head)}/hidden" if self.neck is not None and self.neck.hidden else None
        known = (*self.units, FEATURES, *([BOTTLENECK] if hidden and self.start != FEATURES else ()))
        for tap in taps:
            if tap not in known:
                raise InputError(f"tap {tap!r} is neither a unit of the model nor 'features'{nearest(tap, self.units)}")
        x, side = self._inputs(batch, begin)
        stored, begin = (), begin or self.start
        if self.start == FEATURES:
            stored = (given(x, self.whole.entrance),)
            begin, (x, side) = self.units[-1], self.whole.anything(len(x))
        params = params if self.part is None else self.part.chosen(params)
        variables = {"params": self.execution.tables(params), **model_state}
        call = dict(side, begin=begin, end=end, train=training is not None, execution=self.execution)
        settings = () if training is None else (policy(training),)
        # The first to be entered is the outermost: the method's interceptor sees the result of the policy, and all of
        # them the output layer as it reads what the neck gives.
        with contextlib.ExitStack() as entered:
            between = () if intercept is None else (intercept,)
            for interceptor in (*self._neck(), *stored, *self.execution.interceptors(self.head, between), *settings):
                entered.enter_context(nn.intercept_methods(interceptor))
            if taps:
                entered.enter_context(nn.intercept_methods(tapped(taps, self.head, hidden)))
            if training is None and not taps:
                return Passed(self._paired(self.module.apply(variables, x, **call), begin, end), model_state, {})
            mutable = [*(() if training is None else model_state), *((TAPS,) if taps else ())]
            rngs = None if training is None else {"dropout": training.key}
            outputs, updated = self.module.apply(variables, x, **call, rngs=rngs, mutable=mutable)
        kept = rules.flatten(updated.pop(TAPS, {}))
        kept = {path.rsplit("/", 1)[1]: kept[path][0] for path in kept}
        if FEATURES in taps and not self.outputs:
            kept[FEATURES] = outputs  # no layer reads them
        return Passed(self._paired(outputs, begin, end), {**model_state, **updated}, kept)

    @property
    def encoding(self) -> Encoding:
        """The first encoding, the only one of most families."""
        return self.encodings[0]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Batch fields that the module is called with."""
        return tuple(self.example(1))

    def example(self, n: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the input fields of a batch, of the longest bucket."""
        return {name: shape for encoding in self.encodings for name, shape in encoding.example(n).items()}

    @property
    def outputs(self) -> int:
        """Width of the head."""
        return self.module.outputs

    @property
    def options(self) -> Any:
        """The family's options, a dataclass."""
        return self.module.options

    @property
    def order(self) -> str | None:
        """Where transformer blocks have their norms (`Spec.order`), as the options state it; None: they don't."""
        return getattr(getattr(self.module, "options", None), "order", None)

    @functools.cached_property
    def features(self) -> tuple[int, ...]:
        """Shape of what the output layer reads of one example, without the batch axis: `(width,)` of a pooled head."""
        return self._read[0][FEATURES].shape[1:]

    @property
    def entrance(self) -> str:
        """Path of the module that stored features enter: the output layer, or a dropout whose result that reads."""
        return self._read[1]

    @functools.cached_property
    def _read(self) -> tuple[Mapping[str, Any], str]:
        """(shapes of what the head and its output layer read of 2 examples, the entrance)."""
        port, dropped, entrance = dataclasses.replace(self, execution=PLAIN), [], []

        def watch(next_fun, args, kwargs, context):
            path, called = "/".join(context.module.path), context.method_name == "__call__"
            if called and path == self.head:
                entrance.extend(place for result, place in dropped if result is args[0])
            outputs = next_fun(*args, **kwargs)
            if called and isinstance(context.module, nn.Dropout):
                dropped.append((outputs, path))
            return outputs

        def taps(key, batch):
            params, model_state = port.init(key, batch)
            names = (*self.units[-2:-1], FEATURES)
            return port.forward(params, model_state, batch, taps=names, intercept=watch).taps

        shapes = jax.eval_shape(taps, jax.random.key(0), self.example(2))
        return shapes, entrance[-1] if entrance else self.head

    @functools.cached_property
    def dropouts(self) -> tuple[str, ...]:
        """Paths of the dropout modules that a training pass calls, those at rate 0 too. Dropout of attention weights is
        among them only where the model has a rate for it."""
        port, found = dataclasses.replace(self, execution=PLAIN), {}

        def watch(next_fun, args, kwargs, context):
            if context.method_name == "__call__" and isinstance(context.module, nn.Dropout):
                found["/".join(context.module.path)] = None
            return next_fun(*args, **kwargs)

        def whole(key, batch):
            training = Training(key=key, live=frozenset(self.units), eval_norms=frozenset())
            return port.apply(*port.init(key, batch), batch, training=training, intercept=watch)

        jax.eval_shape(whole, jax.random.key(0), self.example(2))
        return tuple(found)

    def unit(self, path: str) -> str | None:
        """The unit a parameter belongs to; a leaf that a method adds names its unit anywhere in its path."""
        return next((part for part in path.split("/") if part in self.units), None)

    def depth(self, path: str) -> int:
        """How far a parameter is from the head: 0 in the head and in added leaves of no unit."""
        unit = self.unit(path)
        if unit is None:
            return 0
        place = self.units.index(unit)
        return len(self.units) - 1 - place if self.depths is None else self.depths[place]

    def summed(self, path: str) -> int:
        """How many leading axes a kernel of this path sums over; 0 for what is none."""
        return next((axes for pattern, axes in self.input_axes if re.fullmatch(pattern, path)), 0)

    def norms(self, model_state: Params) -> frozenset[str]:
        """Paths of the modules that keep running statistics."""
        return frozenset(path.rsplit("/", 1)[0] for path in rules.flatten(model_state.get("batch_stats", {})))

    def with_parts(self, ports: Sequence[Port]) -> Port:
        """The same port with heads beside its own."""
        return dataclasses.replace(self, parts=tuple(ports))

    def with_axis(self, axis_name: str | None) -> Port:
        """The same port with batch statistics averaged over a mapped axis (pmap); jit on a mesh needs none."""
        inside = tuple(port.with_axis(axis_name) for port in self.parts)
        neck = None if self.neck is None else self.neck.clone(axis_name=axis_name)
        return dataclasses.replace(self, module=self.module.clone(axis_name=axis_name), parts=inside, neck=neck)

    def computed(self, execution: Execution) -> Port:
        """The same port with these execution settings, and its parts."""
        inside = tuple(port.computed(execution) for port in self.parts)
        return dataclasses.replace(self, execution=execution, parts=inside)

    def with_outputs(self, outputs: int) -> Port:
        """The same port with an output layer of another width."""
        return dataclasses.replace(self, module=self.module.clone(outputs=outputs))

    def with_neck(self, neck: necks.Neck) -> Port:
        """The same port with a bottleneck before its output layer."""
        axes = (*((kernel, 1) for kernel in necks.kernels(neck, self.head)), *self.input_axes)
        tensor = ((f"{necks.path(self.head)}/.*", None), *self.tensor_axes)
        return dataclasses.replace(self, neck=neck, input_axes=axes, tensor_axes=tensor, feature_parts=())

    def with_words(self) -> Port:
        """The same port whose text encodings keep the word of each token, for a task's targets."""
        encodings = (
            dataclasses.replace(encoding, words=True) if hasattr(encoding, "words") else encoding
            for encoding in self.encodings
        )
        return dataclasses.replace(self, encodings=tuple(encodings))

    def with_apart(self) -> Port:
        """The same port whose text encodings read the two texts of a pair each on its own."""
        encodings = (
            dataclasses.replace(encoding, apart=True) if hasattr(encoding, "apart") else encoding
            for encoding in self.encodings
        )
        return dataclasses.replace(self, encodings=tuple(encodings))

    def beginning(self, at: str, *, inputs: bool = False, views: int = 1) -> Port:
        """The same port, whose passes begin at stored activations: its batches have `features` in place of examples.

        Args:
          at: the unit that reads them, one array of an example (`passed`); or `features`, what the output layer reads:
            there, one vector of an example, and the head must not read its inputs apart.
          inputs: whether the task makes its targets of the encoded examples.
          views: how many augmented views of an example there are.
        """
        buckets = any(encoding.buckets for encoding in self.encodings)
        shape, side = (self.features, ()) if at == FEATURES else (self.passed(at).shape[1:], self.inputs[1:])
        how = {"inputs": inputs, "views": views, "tokens": buckets and at != FEATURES}
        stored = StoredEncoding(shape=shape, like=self.encodings, side=side, **how)
        return dataclasses.replace(self, encodings=(stored,), whole=self, start=at)

    def passed(self, to: str) -> Any:
        """Shapes of what a unit after the first reads of 2 examples of the longest bucket: an array, or a pytree."""
        before = self.units[self.units.index(to) - 1]
        port = dataclasses.replace(self, execution=PLAIN)

        def until(key, batch):
            return port.apply(*port.init(key, batch), batch, end=before)[0]

        return jax.eval_shape(until, jax.random.key(0), self.example(2))

    def anything(self, n: int) -> tuple[Any, dict[str, jax.Array]]:
        """(what the head unit reads, the other fields) of n examples, all zero: for a pass that does not look at it."""
        read = jax.tree.map(lambda s: jnp.zeros((n, *s.shape[1:]), s.dtype), self._read[0][self.units[-2]])
        side = {name: jnp.zeros(s.shape, s.dtype) for name, s in self.example(n).items() if name != self.inputs[0]}
        return read, side

    @property
    def apart(self) -> bool:
        """Whether the two texts of a pair are read each on its own; other inputs would have one row for the two."""
        return all(getattr(encoding, "apart", False) for encoding in self.encodings)

    def _neck(self) -> tuple[Interceptor, ...]:
        return () if self.neck is None else (necks.before(self.neck, self.head),)

    def _inputs(self, batch: Mapping[str, Any], begin: str | None = None) -> tuple[Any, dict[str, Any]]:
        """(x, the other fields); pairs are folded into the batch: rows 2 i and 2 i + 1 are of example i."""
        fields = {name: batch[name] for name in self.inputs}
        if self.apart:  # a later unit's input is folded already
            folded = self.inputs if begin is None else self.inputs[1:]
            fields |= {name: fields[name].reshape(-1, *fields[name].shape[2:]) for name in folded}
        return fields[self.inputs[0]], {name: fields[name] for name in self.inputs[1:]}

    def _paired(self, outputs: jax.Array, begin: str | None, end: str | None) -> jax.Array:
        whole = begin is None and end is None
        return outputs.reshape(-1, 2, outputs.shape[-1]) if self.apart and whole else outputs

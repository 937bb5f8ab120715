"""`jaxfer.adapters`: several adapters on one frozen backbone, held once: switched, summed by weights, or stacked.

Each adapter keeps its own head. What these functions give is a `Model`, as `jaxfer.predict` takes it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxfer import files
from jaxfer.config.fields import AUTO
from jaxfer.errors import InputError, nearest
from jaxfer.exports import peft_beside
from jaxfer.exports.hf import label_names
from jaxfer.exports.peft_beside import ADDED, REPLACED
from jaxfer.exports.predict import Model, load_export
from jaxfer.method import FROZEN, Method, without
from jaxfer.models import neck, parts
from jaxfer.models.passes import Interceptor
from jaxfer.network import Network
from jaxfer.parallel.placement import placement
from jaxfer.ports import port_shapes
from jaxfer.pretrained import foreign, peft_prompts
from jaxfer.rules import flatten, unflatten
from jaxfer.runs.finished import open_run
from jaxfer.runs.folder import holds_run
from jaxfer.training.evaluation import evaluate_split, reopened

OWN = "adapters"  # where the parameters of several are, by their names
SUMS = ("lora", "vera", "loha", "lokr")  # what they add to a kernel does not depend on the kernel
# Facts of an encoding that tell of a folder, or of training, and not of the model.
ELSEWHERE = ("tokenizer", "tokenizer_sha256", "apart", "words", "again", "max_length")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """One of them, without the backbone.

    Attributes:
      folder: the run's, or the export's.
      kind: its method.
      head: {path: leaf} of its output layer.
      added: {path: leaf} of what its method added to the model.
      model: as it was loaded, with neither parameters nor running statistics.
    """

    folder: epath.Path
    kind: str
    head: Mapping[str, Any]
    added: Mapping[str, Any]
    model: Model

    @property
    def method(self) -> Method:
        """That of its network."""
        return self.model.network.method


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapters:
    """Adapters of one backbone.

    Attributes:
      backbone: {path: leaf}, which all of them share.
      model_state: running statistics, likewise.
      each: {name: adapter}.
    """

    backbone: Mapping[str, Any]
    model_state: Any
    each: Mapping[str, Adapter]

    def switch(self, name: str) -> Model:
        """The model with this adapter and its head, as its run trained it."""
        one = self._named(name)
        network = dataclasses.replace(
            one.model.network,
            params=unflatten({**self.backbone, **one.head, **one.added}),
            model_state=self.model_state,
        )
        return dataclasses.replace(one.model, network=network)

    def weighted(self, weights: Mapping[str, float], *, head: str | None = None) -> Model:
        """The model whose kernels gain the sum of the adapters' updates, each times its weight.

        The products are summed, not the factors: of LoRA it is what concatenated factors give.

        Args:
          weights: {name: weight}.
          head: the adapter whose output layer answers; None: the first.

        Raises:
          InputError: an unknown name, a weight that is no number, or a kind of adapter that has no sum.
        """
        if not weights:
            raise InputError(f"weights: expected a weight for each of {', '.join(self.each)} to be summed, found none")
        for name, weight in weights.items():
            one = self._named(name)
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
                raise InputError(f"weights: expected a number for {name}, found {weight!r}")
            if one.kind == REPLACED:
                raise InputError(f"{name}: held as the weights that the adapter makes, which have no sum; switch to it")
            if one.kind not in (*SUMS, ADDED):
                raise InputError(
                    f"{name}: adapters of {', '.join(SUMS)} have a sum, {one.kind} has none; switch to it, or stack it"
                )
            self._check_joins(name)
        answers = self._named(head or next(iter(weights)))

        def view(params, extra):
            leaves = flatten(without(OWN)(params, None))
            for name, weight in weights.items():
                own = params[OWN][name]
                paths = [f"{path.rpartition('/')[0]}/kernel" for path in flatten(own[self.each[name].kind])]
                zeros = unflatten({path: jnp.zeros_like(leaves[path]) for path in paths})
                made = flatten(self.each[name].method.merge({**zeros, **own}, extra[name]))
                leaves |= {path: leaves[path] + weight * made[path] for path in dict.fromkeys(paths)}
            return unflatten(leaves)

        return self._together(tuple(weights), answers, view, lambda params, extra: None)

    def stacked(self, names: Sequence[str], *, head: str | None = None) -> Model:
        """The model in which each layer passes through the adapters one after the other, the first one first.

        Args:
          names: of the adapters.
          head: the adapter whose output layer answers; None: the first.

        Raises:
          InputError: an unknown name, or none.
        """
        if isinstance(names, str) or not names or len(set(names)) < len(names):
            raise InputError(f"stack: expected different names of {', '.join(self.each)}, found {names!r}")
        for name in names:
            self._named(name)
            self._check_joins(name)
            if self.each[name].kind == REPLACED and len(names) > 1:
                raise InputError(
                    f"{name}: held as the weights that the adapter makes of its base, which nothing is stacked on; "
                    "switch to it"
                )
        answers = self._named(head or names[0])

        def view(params, extra):
            plain = without(OWN)(params, None)
            for name in names:
                plain = self.each[name].method.view({**plain, **params[OWN][name]}, extra[name])
            return plain

        def intercept(params, extra):
            plain, found = without(OWN)(params, None), None
            for name in names:
                found = chained(found, self.each[name].method.intercept({**plain, **params[OWN][name]}, extra[name]))
            return found

        return self._together(tuple(names), answers, view, intercept)

    def _together(
        self, names: tuple[str, ...], answers: Adapter, view: Callable[..., Any], intercept: Callable[..., Any]
    ) -> Model:
        own = {name: unflatten(self.each[name].added) for name in names}
        network = dataclasses.replace(
            answers.model.network,
            params={**unflatten({**self.backbone, **answers.head}), OWN: own},
            model_state=self.model_state,
            extra={name: self.each[name].model.network.extra for name in names},
            method=Method(rules=((".*", FROZEN),), view=view, intercept=intercept, merge=None),
        )
        return dataclasses.replace(answers.model, network=network)

    def _named(self, name: str) -> Adapter:
        if name not in self.each:
            raise InputError(f"unknown adapter {name!r}{nearest(str(name), self.each)}")
        return self.each[name]

    def _check_joins(self, name: str) -> None:
        one = self.each[name]
        if one.method.evaluated is not None:
            raise InputError(f"{name}: a run that is evaluated by averages of its parameters; switch to it alone")
        if any(path.startswith(f"{one.kind}/{one.model.port.head}/") for path in one.added):
            raise InputError(f"{name}: its adapter changes its own output layer; switch to it alone")


def chained(first: Interceptor | None, second: Interceptor | None) -> Interceptor | None:
    """One interceptor of two: the second sees what the first makes of a layer."""
    if first is None or second is None:
        return first or second

    def both(next_fun, args, kwargs, context):
        return second(lambda *args, **kwargs: first(next_fun, args, kwargs, context), args, kwargs, context)

    return both


def adapters(runs: Mapping[str, str | epath.Path]) -> Adapters:
    """Loads adapters onto the backbone that they share.

    Args:
      runs: {name: folder of a finished run, or of a `peft` adapter}. LoRA of dense layers, prompts and prefixes are
        parameters of our methods. Other adapters that add to kernels are held as what they add; they can be summed and
        stacked too. The rest ((IA)^3, DoRA, rotations, biases, norms, tokens) are held as what they make: switch only.

    Raises:
      InputError: no run, another model than the first's, or a backbone that differs from the first's: its method
        trained more than an adapter and the head, or it started elsewhere.
    """
    if not isinstance(runs, Mapping) or not runs:
        raise InputError(f"expected {{name: the folder of a run}}, found {runs!r}")
    each: dict[str, Adapter] = {}
    first, backbone, model_state, facts = "", {}, None, {}
    for name, folder in runs.items():
        kind, model = _opened(folder)
        network, port = model.network, model.port
        shapes, leaves = flatten(port_shapes(port)[0]), flatten(network.params)
        head = {path for path in shapes if path.startswith(f"{port.head}/")}
        shared = {path: leaf for path, leaf in leaves.items() if path in shapes and path not in head}
        if not each:
            first, backbone, model_state, facts = name, shared, network.model_state, _facts(model)
        else:
            _check_same(name, _facts(model), first, facts)
            there = flatten({"params": backbone, **model_state})
            _check_shared(name, flatten({"params": shared, **network.model_state}), first, there)
        bare = dataclasses.replace(network, params=None, model_state=None)
        each[name] = Adapter(
            folder=files.opened(folder),
            kind=kind,
            head={path: leaves[path] for path in sorted(head)},
            added={path: leaf for path, leaf in leaves.items() if path not in shapes},
            model=dataclasses.replace(model, network=bare),
        )
    return Adapters(backbone=backbone, model_state=model_state, each=each)


def evaluate(
    model: Model, run: str | epath.Path, *, split: str = "val", overrides: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """{metric: value} of such a model on the data of the run whose head it has; arguments as of `jaxfer.evaluate`."""
    finished, experiment, data = reopened(run, split, "result", overrides or {})
    if data.classes != finished.classes:
        raise InputError(
            f"the run's classes are {finished.classes}, this data's {data.classes}; set config.data.classes"
        )
    network, where = model.network, placement(experiment.parallel)
    spec = dataclasses.replace(finished.stage.spec, method=network.method, streams=(), port=network.port)
    state = finished.state.replace(
        params=network.params, model_state=network.model_state, extra=network.extra, hparams={}, key=None, opt_state=()
    )
    size = experiment.run.eval_batch_size
    return evaluate_split(spec, where.place(spec, state), data.splits[split], where, size).metrics


def _opened(folder: str | epath.Path) -> tuple[str, Model]:
    """(the method's name, the model with its parameters as trained, unmerged)."""
    if not holds_run(files.opened(folder).expanduser()):
        model = load_export(folder)
        checkpoint = foreign.opened(str(folder), AUTO, {})
        if (kind := peft_prompts.method(checkpoint.files)) is not None:
            return kind, model
        return peft_beside.beside(model, checkpoint)
    finished = open_run(files.opened(folder).expanduser())
    spec, state, task = finished.stage.spec, finished.state, finished.experiment.task
    beside = [port.part for port in spec.port.parts]
    network = Network(
        port=spec.port.with_parts(()),
        params=parts.without(state.params, beside),
        model_state=state.model_state,
        method=spec.method,
        extra=state.extra,
    )
    labels = label_names(finished.classes, network.port.outputs)
    model = Model(network=network, labels=labels, task=task.name, options=dict(task.options))
    return finished.stage.config.method, model


def _facts(model: Model) -> dict[str, Any]:
    """What has to be alike for two models to be one backbone, beside its leaves."""
    port = model.port
    facts = {**port.options.network, **vars(port.encoding), "neck": neck.facts(port)}
    return {"family": type(port.module).__name__, **{k: v for k, v in facts.items() if k not in ELSEWHERE}}


def _check_same(name: str, facts: Mapping[str, Any], first: str, others: Mapping[str, Any]) -> None:
    differing = [fact for fact in {**others, **facts} if facts.get(fact) != others.get(fact)]
    if differing:
        found, wanted = (each.get(differing[0]) for each in (facts, others))
        raise InputError(
            f"{name}: its model has {differing[0]}={found!r}, that of {first} {wanted!r}; adapters share one"
        )


def _check_shared(name: str, found: Mapping[str, Any], first: str, there: Mapping[str, Any]) -> None:
    paths = sorted({*found, *there})
    odd = [p for p in paths if p not in found or p not in there or not np.array_equal(found[p], there[p])]
    if odd:
        raise InputError(
            f"{name}: its backbone is not that of {first}: {odd[0]} is the first of {len(odd)} leaves that differ; "
            "adapters share one frozen backbone, so start them from the same weights and train nothing else but a head"
        )

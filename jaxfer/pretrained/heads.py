"""Checkpoints used with their own head: its width, task and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jaxfer.errors import InputError
from jaxfer.method import NOTHING
from jaxfer.models.port import Port
from jaxfer.network import Network
from jaxfer.pretrained import carrying, peft_prompts
from jaxfer.pretrained.foreign import Checkpoint
from jaxfer.registry import METHODS
from jaxfer.rules import flatten
from jaxfer.runs.tokenizer import stated_length
from jaxfer.stored import placed

# jaxfer's tasks by transformers' `problem_type`.
PROBLEMS = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}
# The inverse; without a `problem_type`, transformers treats one output as a regression.
KINDS = {problem: task for task, problem in PROBLEMS.items()}


def head_width(checkpoint: Checkpoint) -> int:
    """The number of outputs of a checkpoint's head; raises `InputError` without a head or if labels do not match."""
    outputs, init = checkpoint.outputs, checkpoint.files.init
    if checkpoint.other_head is not None:
        raise InputError(
            f"{init}: a {checkpoint.other_head}, whose head does not label whole inputs; `jaxfer run` trains one"
        )
    if not outputs:
        raise InputError(f"{init}: the checkpoint has no head, so nothing to predict with; `jaxfer run` trains one")
    if len(checkpoint.labels) not in (0, outputs):
        raise InputError(f"{init}: expected {outputs} labels, one per output, found {len(checkpoint.labels)}")
    return outputs


def guessed_task(checkpoint: Checkpoint) -> str:
    """The task that a checkpoint states or its outputs suggest; raises `InputError` for an unknown `problem_type`."""
    if checkpoint.problem_type not in (None, *KINDS):
        raise InputError(
            f"{checkpoint.files.init}: expected a problem_type of {', '.join(KINDS)}, found "
            f"{checkpoint.problem_type!r}; correct config.json"
        )
    return KINDS.get(checkpoint.problem_type, "regression" if checkpoint.outputs == 1 else "classification")


def whole_length(checkpoint: Checkpoint) -> int | None:
    """The longest input in tokens that a text model's files state; inference need not shorten it to save cost."""
    if not checkpoint.files.tokenizer or "positions" not in checkpoint.options:
        return None
    stated = checkpoint.files.marker.get("max_length") or stated_length(checkpoint.files.tokenizer[0].parent)
    prompts = 0 if peft_prompts.method(checkpoint.files) is None else peft_prompts.options(checkpoint.files)["tokens"]
    return stated and min(stated, checkpoint.options["positions"] - prompts)


def loaded(checkpoint: Checkpoint, port: Port, differs: Sequence[str] = ()) -> tuple[Any, Any]:
    """(params, model_state) of a checkpoint including its head, on the device; `InputError` if a leaf is missing."""
    return _loaded(checkpoint, port, differs, prompted=False)


def network(checkpoint: Checkpoint, port: Port) -> Network:
    """The network of a checkpoint including its head; `peft`'s prompts and prefixes are parameters of our methods."""
    name = peft_prompts.method(checkpoint.files)
    params, model_state = _loaded(checkpoint, port, (), prompted=name is not None)
    if name is None:
        return Network(port=port, params=params, model_state=model_state)
    method = METHODS.make(name, port, **peft_prompts.options(checkpoint.files))
    params = {**params, name: peft_prompts.learned(checkpoint.files, port)}
    jax.eval_shape(lambda params: method.init(params, jax.random.key(0), NOTHING), params)  # refuses what doesn't fit
    return Network(port=port, params=params, model_state=model_state, method=method, extra={})


def _loaded(checkpoint: Checkpoint, port: Port, differs: Sequence[str], *, prompted: bool) -> tuple[Any, Any]:
    shapes = jax.eval_shape(port.init, jax.random.key(0), port.example(2))
    leaves = flatten({"params": shapes[0], **shapes[1]})
    conversion = carrying.carry(checkpoint, port, leaves, reset=[], differs=differs, prompted=prompted, lazy=True)
    if conversion.fresh:
        problem = f"the checkpoint has no head ({conversion.fresh[0]} is missing)"
        raise InputError(f"{checkpoint.files.init}: {problem}; `jaxfer run` trains one")
    return placed(conversion.params), placed(conversion.model_state)

"""transformers' PyTorch models on one side, ours on the other: drawn, carried over, and compared.

Random deep networks overflow or vanish, and then any tolerance passes or none does. `settle` therefore draws weights
and running statistics while data flows through the network, and `compare` refuses hidden states outside 0.1 to 10.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from safetensors.numpy import load_file
from torch import nn

from jaxfer.models.port import Port
from jaxfer.pretrained import timm
from jaxfer.pretrained.layout import Layout, convert
from jaxfer.registry import MODELS
from jaxfer.rules import flatten

if TYPE_CHECKING:
    from tests.parity.families import Case

BOUND = 1e-4  # x max(1, max |reference|)
torch.set_num_threads(2)


def settle(model: nn.Module, inputs: Any, *, last: str, gain: float, seed: int = 0) -> nn.Module:
    """Random weights and batch statistics, none neutral, under which hidden states keep the scale of their input.

    Every convolution and linear layer gets a gain of about 1; every BatchNorm the statistics of the data that reaches
    it, shifted and stretched at random, so that its output is near standard but not quite. The layers whose names match
    `last`, which end a residual branch, get the given `gain`, so that a deep sum of branches stays in bounds.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(like: torch.Tensor, std: float) -> torch.Tensor:
        return torch.randn(like.shape, generator=draw) * std

    def uniform(like: torch.Tensor) -> torch.Tensor:
        return 0.75 + 0.5 * torch.rand(like.shape, generator=draw)

    def statistics(norm: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        var, mean = torch.var_mean(args[0], [axis for axis in range(args[0].ndim) if axis != 1])
        std = (var + 1e-3).sqrt()  # a channel that is dead, or has one pixel, gets a variance too
        norm.running_mean.copy_(mean + std * normal(mean, 0.2))
        norm.running_var.copy_(std**2 * uniform(var))

    hooks = []
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(normal(parameter, 0.1 if parameter.ndim == 1 else 0.5))
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                weight = module.weight
                weight.copy_(normal(weight, math.prod(weight.shape[1:]) ** -0.5))
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
                module.weight.copy_(uniform(module.weight))
            if re.fullmatch(last, name):
                module.weight.mul_(gain)
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                hooks.append(module.register_forward_pre_hook(statistics))
        model.eval()(**inputs) if isinstance(inputs, dict) else model.eval()(inputs)
        for hook in hooks:
            hook.remove()
    return model


def tensors(model: nn.Module, folder: Path) -> dict[str, np.ndarray]:
    """What the model saves: the tensors of its checkpoint under the names that others read."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def ours(
    layout: Layout,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    outputs: int,
    preprocessor: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[Port, Any, Any]:
    """(port, params, model_state) of a checkpoint; `options` are ours to choose."""
    shapes = {name: value.shape for name, value in tensors.items()}
    found = {**layout.options(config, preprocessor or {}, shapes), **options}
    port = MODELS.make(layout.family, outputs=outputs, **found)
    params, state = jax.eval_shape(port.init, jax.random.key(0), example(port))
    conversion = convert(tensors, layout, port, flatten({"params": params, **state}))
    constants = layout.constants(port)
    assert not conversion.fresh
    assert all(key in constants or key.endswith("num_batches_tracked") for key in conversion.unused)
    return port, *jax.tree.map(jnp.asarray, (conversion.params, conversion.model_state))


def example(port: Port) -> dict[str, jax.Array]:
    return {name: jnp.zeros(like.shape, like.dtype) for name, like in port.example(1).items()}


def images(port_size: Sequence[int], examples: int = 2, seed: int = 0) -> np.ndarray:
    """Standard normal [examples, height, width, channels] float32."""
    return np.random.default_rng(seed).normal(size=(examples, *port_size)).astype(np.float32)


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.transpose(x, (0, 3, 1, 2))))


def channels_last(x: torch.Tensor) -> np.ndarray:
    """A reference activation in our order of axes; tokens are as they are."""
    x = x.detach().numpy()
    return np.transpose(x, (0, 2, 3, 1)) if x.ndim == 4 else x


def watch(
    model: nn.Module, paths: Mapping[str, str], x: Any, logits: Callable[[Any], torch.Tensor] | None = None
) -> dict[str, np.ndarray]:
    """{ours: output of their submodule `path`}, channels last, from one pass in evaluation mode."""
    found: dict[str, np.ndarray] = {}

    def keep(name):
        def hook(module, args, output):
            output = getattr(output, "last_hidden_state", output)
            found[name] = channels_last(output[0] if isinstance(output, tuple) else output)

        return hook

    hooks = [model.get_submodule(path).register_forward_hook(keep(name)) for name, path in paths.items()]
    with torch.no_grad():
        output = model.eval()(**x) if isinstance(x, dict) else model.eval()(x)
    for hook in hooks:
        hook.remove()
    if not isinstance(output, torch.Tensor):
        output = output.logits if hasattr(output, "logits") else logits(output)
    found["logits"] = output.numpy()
    return found


def fed(case: Case, model: nn.Module, examples: int, seed: int) -> tuple[dict[str, np.ndarray], Any]:
    """(our batch, their input) of a case: normal images or series, or texts, their padding masked."""
    if case.image:
        x = np.float32(case.spread) * images(case.image, examples, seed)
        return {"image": x}, channels_first(x)
    if case.batch is not None:
        batch = case.batch(examples, seed)
        return batch, case.theirs(batch)
    if case.series:
        x = images(case.series, examples, seed) + 1
        return {"series": x}, torch.from_numpy(x)
    rng, config = np.random.default_rng(seed), getattr(model, "config", None)
    written = {}
    if case.target:  # what a decoder reads
        written = {"decoder_input_ids": rng.integers(3, config.vocab_size, (examples, case.target)).astype(np.int32)}
    if case.sounds or case.audio:
        batch = case.sounds(examples, seed) if case.sounds else {"audio": images(case.audio, examples, seed), **written}
        return batch, case.heard(batch)
    mask = (np.arange(case.length) < np.linspace(2, case.length, examples).astype(int)[:, None]).astype(np.int32)
    ids = rng.integers(3, config.vocab_size, mask.shape).astype(np.int32)
    pad = getattr(config, "pad_token_id", None) or 0
    types = rng.integers(0, max(getattr(config, "type_vocab_size", 1), 1), mask.shape).astype(np.int32) * mask
    ids = case.texts(np.where(mask, ids, pad).astype(np.int32), mask)
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, **written}
    read = texts_read(model)
    return batch, {name: torch.from_numpy(leaf).long() for name, leaf in batch.items() if name in read}


def texts_read(model: nn.Module) -> set[str]:
    """The input fields that the reference takes; GPT-2 would add the embeddings of token types as those of tokens."""
    unread = set() if hasattr(model.config, "type_vocab_size") else {"token_type_ids"}
    return {*inspect.signature(model.forward).parameters} - unread


def drawn(case: Case) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """(the settled reference, our batch of two examples)."""
    torch.manual_seed(0)
    model = case.make()
    settle(model, fed(case, model, 8, 0)[1], last=case.last, gain=case.gain, seed=case.seed)
    case.prepared(model)
    return model, fed(case, model, 2, 0)[0]


def answers(case: Case, model: nn.Module, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{unit of ours: what theirs answers}, and `logits`; where a text is padded their outputs are zero."""
    if case.image:
        theirs: Any = channels_first(batch["image"])
    elif "audio" in batch:
        theirs = case.heard(batch)
    elif case.batch is not None:
        theirs = case.theirs(batch)
    elif case.series:
        theirs = torch.from_numpy(batch["series"])
    else:
        read = texts_read(model)
        theirs = {name: torch.from_numpy(leaf).long() for name, leaf in batch.items() if name in read}
    found = watch(model, case.units, theirs, case.logits)
    return {name: case.shaped.get(name, lambda x: x)(x) for name, x in found.items()}


def saved(model: nn.Module, folder: Path) -> dict[str, np.ndarray]:
    """The checkpoint's tensors; a copy, since training changes the model's in place."""
    if hasattr(model, "save_pretrained") and hasattr(model, "config"):
        return tensors(model, folder)
    return timm.parted({name: value.numpy().copy() for name, value in model.state_dict().items()})[0]


def unit_outputs(port: Port, params: Any, model_state: Any, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{unit: its output}, along our own chain; the head's is called `logits`."""
    found, x = {}, dict(batch)
    for unit in port.units:
        hidden, _ = port.apply(params, model_state, x, begin=unit, end=unit)
        found[unit] = np.asarray(hidden["decoder"] if isinstance(hidden, Mapping) else hidden)
        x = {**batch, port.inputs[0]: hidden}
    found["logits"] = found.pop(port.units[-1])
    return found


def noted(error: float) -> None:
    """Adds an error to the file that JAXFER_PARITY names, for `experiments/model_zoo/table.py`."""
    if path := os.environ.get("JAXFER_PARITY"):
        with open(path, "a") as file:
            print(json.dumps({"test": os.environ["PYTEST_CURRENT_TEST"], "error": float(error)}), file=file)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    """Logits of an adapter within 1e-5 x max(1, max |reference|)."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


def compare(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], *, scaled: bool = True) -> None:
    """Every hidden state and the logits within the bound; `scaled` ones must have a maximum in 0.1 to 10."""
    assert found.keys() >= expected.keys()
    for name, reference in expected.items():
        top = float(np.abs(reference).max())
        assert not scaled or 0.1 <= top <= 10, f"{name}: max |reference| is {top}; the comparison would mean nothing"
        assert found[name].shape == reference.shape, name
        error = float(np.abs(found[name] - reference).max())
        noted(error / max(1.0, top))
        assert error <= BOUND * max(1.0, top), f"{name}: off by {error} where max |reference| is {top}"

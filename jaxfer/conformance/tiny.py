"""Every model at its smallest: what the conformance suite trains, as the model's module states it in `TINY`."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.method import Given
from jaxfer.models.port import Port
from jaxfer.ports import port_shapes
from jaxfer.registry import MODELS


def of_model(model: str) -> dict[str, Mapping[str, Any]]:
    """{case: options} of a model: its module's `TINY`, the options of a case or {name: options} of several; where it
    has none the defaults are the case."""
    stated = getattr(sys.modules[MODELS.get(model).__module__], "TINY", {})
    several = bool(stated) and all(isinstance(value, Mapping) for value in stated.values())
    stated = stated if several else {"": stated}
    return {f"{model}_{name}" if name else model: {"outputs": 3, **given} for name, given in stated.items()}


def every(models: Iterable[str]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """{case: (model, options)} of these models."""
    return {case: (model, given) for model in models for case, given in of_model(model).items()}


# Those of the package; a user's models have cases of their own.
TINY = every(MODELS.names())


def options(case: str) -> tuple[str, Mapping[str, Any]]:
    """(model, its options) of a case."""
    if case not in TINY:
        TINY.update(every(name for name in MODELS.names() if case.startswith(name)))
    return TINY[case]


def make(case: str, **changes: Any) -> Port:
    """The port of a case; `changes` override its options."""
    model, given = options(case)
    return MODELS.make(model, **{**given, **changes})


def cases(model: str) -> tuple[str, ...]:
    """The cases of one model."""
    return tuple(of_model(model))


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(rng.normal(size=shape).astype(np.float32))


def _mask(rng: np.random.Generator, port: Port, n: int) -> jax.Array:
    """Tokens first, then padding; the first text has none."""
    *rows, length = port.example(n)["attention_mask"].shape
    kept = rng.integers(2, length + 1, size=rows)
    kept[0] = length
    return jnp.asarray((np.arange(length) < kept[..., None]).astype(np.int32))


def _ids(rng: np.random.Generator, port: Port, n: int, rows: int) -> jax.Array:
    return jnp.asarray(rng.integers(rows, size=port.example(n)["input_ids"].shape).astype(np.int32))


def _fact(port: Port, name: str) -> Any:
    """A fact of the encoding that has it: of two towers' the second one may be of texts."""
    return next(getattr(encoding, name) for encoding in port.encodings if hasattr(encoding, name))


# {batch field: (generator, port, examples) -> [examples, ...]}
FIELDS = {
    "image": lambda rng, port, n: _normal(rng, (n, *port.encoding.size)),
    "audio": lambda rng, port, n: _normal(rng, port.example(n)["audio"].shape),
    "series": lambda rng, port, n: _normal(rng, port.example(n)["series"].shape),
    "numbers": lambda rng, port, n: _normal(rng, port.example(n)["numbers"].shape),
    "missing": lambda rng, port, n: jnp.asarray(
        (rng.random(port.example(n)["missing"].shape) < 0.3).astype(np.float32)
    ),
    "categories": lambda rng, port, n: jnp.asarray(
        rng.integers(
            0, [len(words) + 1 for words in port.encoding.values], (n, len(port.encoding.values)), dtype=np.int32
        )
    ),
    "input_ids": lambda rng, port, n: _ids(rng, port, n, _fact(port, "vocab")),
    "token_type_ids": lambda rng, port, n: _ids(rng, port, n, max(_fact(port, "types"), 1)),
    "attention_mask": _mask,
}


def field(name: str, rng: np.random.Generator, port: Port, n: int) -> jax.Array:
    """A random input field; one that `FIELDS` does not know is normal, or 0 and 1 where it holds integers."""
    if name in FIELDS:
        return FIELDS[name](rng, port, n)
    like = port.example(n)[name]
    if jnp.issubdtype(like.dtype, jnp.integer):
        return jnp.asarray(rng.integers(2, size=like.shape), like.dtype)
    return _normal(rng, like.shape).astype(like.dtype)


def batch(port: Port, examples: int = 4, seed: int = 0) -> dict[str, jax.Array]:
    """A random batch with the port's input fields."""
    rng = np.random.default_rng(seed)
    return {name: field(name, rng, port, examples) for name in port.inputs}


def given(shapes: Given, seed: int = 0) -> Given:
    """What a method's `init` is given: random leaves of these shapes, positive where they stand for a measurement."""
    rng = np.random.default_rng(seed)
    head = None if shapes.head is None else {path: _normal(rng, leaf.shape) for path, leaf in shapes.head.items()}
    measured, former = (
        jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.5, 1.5, s.shape), s.dtype), tree)
        for tree in (shapes.measured, shapes.former)
    )
    return Given(head=head, measured=measured, former=former)


def draw(port: Port, seed: int = 0) -> tuple[Any, Any]:
    """Random (params, model_state) of the port, none at its neutral initial value; drawn by numpy, because compiling
    an initialiser takes longer than most tests."""
    rng = np.random.default_rng(seed)

    def leaf(path: tuple[Any, ...], like: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        if name in ("scale", "var"):
            value = rng.uniform(0.5, 1.5, like.shape)
        else:
            # A window is one sum a channel; at the smallest sizes zeros surround its middle.
            scale = {"kernel": math.prod(like.shape[:-1]) ** -0.5, "window": 1.0}.get(name, 0.2)
            value = rng.normal(size=like.shape) * scale
        return jnp.asarray(value.astype(like.dtype))

    return jax.tree_util.tree_map_with_path(leaf, port_shapes(port))

"""Every model at its smallest: what the conformance suite trains. A model of the package without a case fails it.

A model from elsewhere states its own options in its module, as `TINY = dict(...)`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.method import Given
from jaxfer.models.port import Port
from jaxfer.ports import port_shapes
from jaxfer.registry import MODELS

# {case: (model, options)}; one model may have several cases.
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet_basic": (
        "resnet",
        dict(outputs=3, stage_sizes=(1, 2), width=6, stem="cifar", shortcut="padding", image=(9, 7, 3)),
    ),
    "resnet_bottleneck": (
        "resnet",
        dict(outputs=3, stage_sizes=(1, 1), width=4, block="bottleneck", image=(18, 14, 3)),
    ),
    "vit_cls": ("vit", dict(outputs=3, patch=3, width=12, layers=2, heads=3, mlp_width=20, image=(6, 9, 3))),
    "vit_mean": (
        "vit",
        dict(outputs=3, patch=3, width=12, layers=2, heads=2, mlp_width=20, pool="mean", image=(6, 9, 3)),
    ),
    "vit_last": (
        "vit",
        dict(
            outputs=3,
            patch=3,
            width=12,
            layers=3,
            heads=3,
            mlp_width=20,
            pool="cls+mean",
            last=3,
            image=(6, 9, 3),
        ),
    ),
    "vit_distilled": (
        "vit",
        dict(outputs=3, patch=3, width=12, layers=2, heads=3, mlp_width=20, distillation="token", image=(6, 9, 3)),
    ),
    "vit_post": (
        "vit",
        dict(
            outputs=3,
            patch=3,
            width=12,
            layers=2,
            heads=3,
            mlp_width=20,
            pool="pooler",
            norm="post",
            qkv_bias=False,
            image=(6, 9, 3),
        ),
    ),
    "mobilenet_v1": (
        "mobilenet_v1",
        dict(outputs=3, depth_multiplier=0.1, min_depth=5, strides=(1, 2, 1), image=(11, 14, 3)),
    ),
    "bert_pooler": (
        "bert",
        dict(outputs=3, vocab=23, width=12, layers=2, heads=3, mlp_width=20, positions=9, types=2, max_length=7),
    ),
    "bert_mean": (
        "bert",
        dict(
            outputs=3,
            vocab=23,
            width=12,
            layers=2,
            heads=2,
            mlp_width=20,
            positions=9,
            types=2,
            max_length=7,
            pool="mean",
        ),
    ),
    "audio_cnn": ("audio_cnn", dict(outputs=3, widths=(4, 6), dropout=0.0, rate=8000, seconds=0.09, mels=7)),
    "row_mlp": (
        "row_mlp",
        dict(
            outputs=3,
            width=6,
            mlp_width=8,
            embedding=3,
            numbers=("size", "weight"),
            means=(12.0, 1.0),
            stds=(4.0, 2.0),
            categories=("colour", "shape"),
            values=(("blue", "green", "red"), ("round",)),
        ),
    ),
    "series_cnn": ("series_cnn", dict(outputs=3, widths=(4, 6), length=9)),
}


def options(case: str) -> tuple[str, Mapping[str, Any]]:
    """(model, its options) of a case of TINY, or of a model that is not in TINY under its own name."""
    if case in TINY:
        return TINY[case]
    return case, {"outputs": 3, **getattr(sys.modules[MODELS.get(case).__module__], "TINY", {})}


def make(case: str, **changes: Any) -> Port:
    """The port of a case; `changes` override its options."""
    model, given = options(case)
    return MODELS.make(model, **{**given, **changes})


def cases(model: str) -> tuple[str, ...]:
    """The cases of one model."""
    return tuple(case for case, (name, _) in TINY.items() if name == model) or (model,)


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


# {batch field: (generator, port, examples) -> [examples, ...]}
FIELDS = {
    "image": lambda rng, port, n: _normal(rng, (n, *port.encoding.size)),
    "audio": lambda rng, port, n: _normal(rng, (n, port.encoding.frames, port.encoding.mels)),
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
    "input_ids": lambda rng, port, n: _ids(rng, port, n, port.encoding.vocab),
    "token_type_ids": lambda rng, port, n: _ids(rng, port, n, port.encoding.types),
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
    measured = jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.5, 1.5, s.shape), jnp.float32), shapes.measured)
    return Given(head=head, measured=measured)


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

"""The head `prompts`: an image tower's output layer out of the class names, read by the text tower beside it.

Zero-shot classification (Radford et al., 2021, arXiv:2103.00020, sec. 3.1) is then the first state of a run, and
fine-tuning begins there (Wortsman et al., 2021, arXiv:2109.01903; Goyal et al., 2022, arXiv:2212.00638).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.config.experiment import InitOptions
from jaxfer.data.encodings.text import texts
from jaxfer.data.split import Split
from jaxfer.errors import InputError
from jaxfer.models.heads import EMBEDDING
from jaxfer.models.port import Port
from jaxfer.pretrained import carrying, foreign, located
from jaxfer.pretrained.foreign import Checkpoint
from jaxfer.pretrained.layout import Layout
from jaxfer.registry import MODELS
from jaxfer.rules import flatten
from jaxfer.stored import placed

TEMPLATES = ("a photo of a {}.",)
BATCH = 64  # texts at a time


def needed(layout: Layout, init: str) -> dict[str, Any]:
    """The options under which images are comparable with texts; `InputError` for a layout without a text tower."""
    if layout.beside is None:
        raise InputError(
            f"config.head=prompts: {init} is read as a {layout.family}, which has no text tower beside it; give a CLIP "
            "or SigLIP checkpoint, or set config.head=reset"
        )
    return {"pool": layout.beside.pool, "normalize": True}


def head(checkpoint: Checkpoint, port: Port, classes: Sequence[str], options: InitOptions) -> dict[str, np.ndarray]:
    """{leaf: value} of the output layer whose logits are those of zero-shot classification.

    The kernel's column of a class is exp(logit_scale) times its embedding: the mean over the templates of embeddings of
    length 1, scaled to length 1 again. The bias is SigLIP's `logit_bias`, 0 for CLIP.

    Args:
      checkpoint: of the image tower, with the text tower beside it.
      port: the model, with the head `pooled`.
      classes: of the data.
      options: `config.init_options`, with the templates and, where they differ, the names of the classes in them.

    Raises:
      InputError: a model whose features are not comparable with texts, a checkpoint without a text tower or tokenizer,
        or names or templates that don't fit.
    """
    init, layout = checkpoint.files.init, checkpoint.layout
    wanted = needed(layout, init)
    given = {name: getattr(port.options, name) for name in wanted}
    differing = [f"{name}={value!r}" for name, value in given.items() if value != wanted[name]]
    if differing or port.module.head != "pooled" or port.neck is not None:
        asked = ", ".join(f"{name}={value!r}" for name, value in wanted.items())
        found = ", ".join(differing) or ("a neck" if port.neck is not None else f"a {port.module.head} head")
        raise InputError(f"config.head=prompts compares images with texts: expected {asked}, found {found}")
    kernel = embeddings(init, layout, prompts(classes, options), options)
    tensors = located.weights(checkpoint.files)
    scale, bias = (tensors.get(name) for name in ("logit_scale", "logit_bias"))
    if scale is None:
        raise InputError(f"config.head=prompts: {init} has no logit_scale; give a whole CLIP or SigLIP")
    if kernel.shape[1:] != port.features:
        raise InputError(
            f"config.head=prompts: texts of {init} have {kernel.shape[1]} channels, images {port.features[0]}"
        )
    value = np.zeros(len(classes), np.float32) + (0.0 if bias is None else float(np.asarray(bias, np.float32).item()))
    column = kernel.T * math.exp(float(np.asarray(scale, np.float32).item()))
    return {f"params/{port.head}/kernel": column.astype(np.float32), f"params/{port.head}/bias": value}


def prompts(classes: Sequence[str], options: InitOptions) -> list[list[str]]:
    """The texts of each class, one for each template; `InputError` for names or templates that don't fit."""
    if not classes:
        raise InputError("config.head=prompts needs the names of classes, the data has none; set config.head=reset")
    names = options.names or tuple(name.replace("_", " ") for name in classes)
    if len(names) != len(classes):
        raise InputError(
            f"config.init_options.names: expected a name for each of the {len(classes)} classes, found {len(names)}"
        )
    for template in options.prompts or TEMPLATES:
        if template.count("{}") != 1:
            raise InputError(f"config.init_options.prompts: expected one {{}} for the class's name, found {template!r}")
    return [[template.replace("{}", name) for template in options.prompts or TEMPLATES] for name in names]


def embeddings(init: str, layout: Layout, read: Sequence[Sequence[str]], options: InitOptions) -> np.ndarray:
    """[classes, width] float32 of length 1, from the checkpoint's text tower."""
    tower = foreign.opened(init, layout.beside.family, {}, options)
    # Whole texts: reading them once costs little.
    length = {"max_length": tower.options["positions"]}
    port = MODELS.make(tower.layout.family, outputs=0, head=EMBEDDING, **{**tower.options, "normalize": True, **length})
    shapes = jax.eval_shape(port.init, jax.random.key(0), port.example(1))
    leaves = flatten({"params": shapes[0], **shapes[1]})
    params = placed(carrying.carry(tower, port, leaves, reset=[], differs=(), lazy=True).params)
    split = Split.whole(text=texts(tuple(text for of_class in read for text in of_class)))
    reader = port.encoding.reader(split)

    @jax.jit
    def embed(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        return port.apply(params, {}, batch)[0]

    parts = []
    for begin in range(0, len(split), BATCH):
        rows = np.minimum(np.arange(begin, begin + BATCH), len(split) - 1)  # one program for all batches
        batch = {name: x for name, x in reader(rows, port.encoding.max_length).items() if name in port.inputs}
        parts.append(np.asarray(embed(params, batch), np.float32))
    each = np.concatenate(parts)[: len(split)].reshape(len(read), -1, parts[0].shape[-1])
    mean = each.mean(1)
    return np.asarray(mean / jnp.linalg.norm(mean, axis=-1, keepdims=True), np.float32)

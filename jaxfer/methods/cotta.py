"""CoTTA, an add-on: at evaluation a student learns what its average predicts, and never moves far from the start.

Wang et al., 2022, "Continual Test-Time Domain Adaptation", arXiv:2203.13591, Algorithm 1. The average, the teacher,
predicts each batch: plainly, or where the trained network's mean confidence is below `confidence` as the mean over
`views` augmented copies. A step of Adam on all of the student's parameters lowers the cross-entropy of its predictions
with these; then average <- `average_decay` * average + (1 - average_decay) * student, and each number of the student
is set back to the trained network's with chance `restored`. All three networks are normalised by the statistics of the
batch. As in the authors' code the mean over the views is of logits.

Views are made on the device: a turn of at most 15 degrees with a shift and a change of size, another brightness and
contrast, a mirror image, and noise. With `augment=authors` they are those of the authors' code, which also blurs, and
changes saturation, hue and gamma; there a view changes all images of the batch alike, here each in its own way. Draws
are the same in every evaluation. What else holds for `tent` holds here.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from jaxfer.errors import InputError
from jaxfer.method import Adapting, Method
from jaxfer.methods import _adapting, _pixels
from jaxfer.models.chain import check_choice
from jaxfer.models.port import Port
from jaxfer.rules import flatten, unflatten

AUGMENTS = ("light", "authors")


def add(
    method: Method,
    port: Port,
    *,
    reset: str = "continual",
    adapt_rate: float = 1e-3,
    views: int = 32,
    mirror: bool = True,
    augment: str = "light",
    confidence: float = 0.92,
    average_decay: float = 0.999,
    restored: float = 0.01,
) -> Method:
    """The method, which adapts at evaluation, to batches of `config.eval_batch_size` examples: 200 in the paper.

    Args:
      method: of the task classification.
      port: a model of images, unless there are no views.
      reset: `continual`, as in the paper: `jaxfer.robustness` keeps what was adapted from one corruption to the next,
        and other evaluations start from the trained network; `online`: each corruption starts there too; `episodic`:
        every batch does.
      adapt_rate: of Adam.
      views: augmented copies; 0: the teacher's own prediction always.
      mirror: whether half of them are mirror images, which digits and letters must not be.
      augment: `light` or `authors`, as above.
      confidence: below which the views are asked: 0.92 for CIFAR-10 in the paper, 0.72 for CIFAR-100.
      average_decay: what the average keeps of itself in a step.
      restored: chance that a number is set back.
    """
    _adapting.check("cotta", method, reset, adapt_rate=adapt_rate)
    if views < 0:
        raise InputError(f"options.views: expected at least 0, found {views}")
    check_choice("options.augment", augment, AUGMENTS)
    for name, value in (("confidence", confidence), ("average_decay", average_decay), ("restored", restored)):
        if not 0 <= value <= 1:
            raise InputError(f"options.{name}: expected 0 to 1, found {value}")

    def init(params, key, given):
        if views and port.inputs != ("image",):
            raise InputError("cotta: its views are of images, and this model reads others; set options.views to 0")
        return method.init(params, key, given)

    def view(key, images):
        if augment == "light":
            return augmented(key, images, mirror)
        mean, std = jnp.asarray(port.encoding.mean), jnp.asarray(port.encoding.std)
        return (pixels(key, images * std + mean, mirror) - mean) / std

    def start(params):
        leaves = flatten(params)
        return {
            "student": leaves,
            "teacher": leaves,
            "opt": optax.adam(adapt_rate).init(leaves),
            "step": jnp.zeros((), jnp.int32),
        }

    def step(kept, params, forward, batch):
        key, source = jax.random.fold_in(jax.random.key(0), kept["step"]), flatten(params)
        teacher = unflatten(kept["teacher"])
        taught = forward(teacher).astype(jnp.float32)
        if views:
            sure = jax.nn.softmax(forward(params).astype(jnp.float32)).max(-1).mean()

            def several():
                def one(key):
                    return forward(teacher, {**batch, "image": view(key, batch["image"])}).astype(jnp.float32)

                return jax.lax.map(one, jax.random.split(jax.random.fold_in(key, 0), views)).mean(0)

            taught = jax.lax.cond(sure < confidence, several, lambda: taught)

        def loss(leaves):
            return crossed(taught, forward(unflatten(leaves)))

        student, opt = _adapting.moved(adapt_rate, jax.grad(loss)(kept["student"]), kept["opt"], kept["student"])
        average = {path: average_decay * x + (1 - average_decay) * student[path] for path, x in kept["teacher"].items()}
        student = set_back(jax.random.fold_in(key, 1), student, source, restored)
        return taught, {"student": student, "teacher": average, "opt": opt, "step": kept["step"] + 1}

    return dataclasses.replace(
        method,
        init=init,
        adapt=Adapting(start=start, step=step, reset=reset),
        tasks=("classification",),
    )


def crossed(taught: jax.Array, own: jax.Array) -> jax.Array:
    """[]: the cross-entropy of the student's predictions with the teacher's, of logits [batch, classes]."""
    chances = jax.nn.softmax(jax.lax.stop_gradient(taught))
    return -(chances * jax.nn.log_softmax(own.astype(jnp.float32))).sum(-1).mean()


def set_back(key: jax.Array, now: dict, source: dict, chance: float) -> dict:
    """{path: leaf}, each number of which is the source's with this chance."""
    drawn, made, begin = jax.random.bernoulli(key, chance, (sum(x.size for x in now.values()),)), {}, 0
    for path, x in now.items():  # one draw: XLA takes seconds to compile each
        made[path] = jnp.where(drawn[begin : begin + x.size].reshape(x.shape), source[path], x)
        begin += x.size
    return made


def augmented(key: jax.Array, images: jax.Array, mirror: bool = True) -> jax.Array:
    """A view of normalised images [batch, height, width, channels], each changed in its own way."""

    def one(key, image):
        turn, sizes, shift, light, contrast, turned, noise = jax.random.split(key, 7)
        angle = jax.random.uniform(turn, minval=-15.0, maxval=15.0)
        scale = jax.random.uniform(sizes, minval=0.9, maxval=1.1)
        size = jnp.asarray(image.shape[:2], jnp.float32)
        moved = jax.random.uniform(shift, (2,), minval=-1 / 16, maxval=1 / 16) * size
        image = _pixels.affine(image, angle, scale, moved)
        mean = image.mean()
        image = (image - mean) * jax.random.uniform(contrast, minval=0.7, maxval=1.3) + mean
        image = image + jax.random.uniform(light, minval=-0.4, maxval=0.4)
        if mirror:
            image = jnp.where(jax.random.bernoulli(turned), image[:, ::-1], image)
        return image + 0.02 * jax.random.normal(noise, image.shape)

    return jax.vmap(one)(jax.random.split(key, len(images)), images).astype(images.dtype)


def pixels(key: jax.Array, images: jax.Array, mirror: bool = True) -> jax.Array:
    """A view of images [batch, height, width, channels], pixels from 0 to 1, as the authors' `get_tta_transforms`."""

    def one(key, image):
        colours, turn, sizes, shift, sharp, turned, noise = jax.random.split(key, 7)
        image = _pixels.jittered(
            colours, jnp.clip(image, 0, 1), (0.6, 0.7, 0.5, -0.06, 0.7), (1.4, 1.3, 1.5, 0.06, 1.3)
        )
        angle = jax.random.uniform(turn, minval=-15.0, maxval=15.0)
        scale = jax.random.uniform(sizes, minval=0.9, maxval=1.1)
        side = jnp.asarray(image.shape[:2], jnp.float32) / 8  # a sixteenth of an image padded to twice its sides
        image = _pixels.affine(image, angle, scale, jax.random.uniform(shift, (2,), minval=-side, maxval=side))
        image = _pixels.blurred(image, jax.random.uniform(sharp, minval=0.001, maxval=0.5))
        if mirror:
            image = jnp.where(jax.random.bernoulli(turned), image[:, ::-1], image)
        return jnp.clip(image + 0.005 * jax.random.normal(noise, image.shape), 0, 1)

    return jax.vmap(one)(jax.random.split(key, len(images)), images.astype(jnp.float32)).astype(images.dtype)

"""Changes of one image [height, width, channels] of pixels from 0 to 1, on the device, as torchvision makes them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

GREY = (0.2989, 0.587, 0.114)  # ITU-R 601-2


def affine(image: jax.Array, degrees: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """The image turned and scaled about its middle, then moved by `shift` [2] pixels; its edge goes on beyond it."""
    angle, middle = jnp.deg2rad(degrees), (jnp.asarray(image.shape[:2], jnp.float32) - 1) / 2
    y, x = jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in image.shape[:2]), indexing="ij")
    y, x = (y - middle[0] - shift[0]) / scale, (x - middle[1] - shift[1]) / scale
    places = [
        jnp.cos(angle) * y - jnp.sin(angle) * x + middle[0],
        jnp.sin(angle) * y + jnp.cos(angle) * x + middle[1],
    ]
    sample = jax.vmap(lambda plane: jax.scipy.ndimage.map_coordinates(plane, places, 1, mode="nearest"), -1, -1)
    return sample(image.astype(jnp.float32))


def blurred(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """By a Gaussian of 5 x 5 pixels; the edge goes on beyond it."""
    weights = jnp.exp(-0.5 * jnp.square(jnp.arange(-2.0, 3.0) / sigma))
    weights = weights / weights.sum()
    for axis in (0, 1):
        padded = jnp.pad(image, [(2, 2) if i == axis else (0, 0) for i in range(3)], mode="edge")
        image = sum(weights[i] * jax.lax.slice_in_dim(padded, i, i + image.shape[axis], axis=axis) for i in range(5))
    return image


def grey(image: jax.Array) -> jax.Array:
    """[height, width, 1]."""
    return (image * jnp.asarray(GREY)).sum(-1, keepdims=True) if image.shape[-1] == 3 else image


def _blended(image: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
    return jnp.clip(share * image + (1 - share) * other, 0, 1)


def brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """All pixels times the factor."""
    return _blended(image, jnp.zeros(()), factor)


def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Their distance to the mean grey."""
    return _blended(image, grey(image).mean(), factor)


def saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Their distance to their own grey."""
    return _blended(image, grey(image), factor)


def hue(image: jax.Array, turn: jax.Array) -> jax.Array:
    """Their place on the circle of colours, by a share of it."""
    if image.shape[-1] != 3:
        return image
    most, least = image.max(-1), image.min(-1)
    spread = most - least
    r, g, b = jnp.moveaxis(image, -1, 0) / jnp.where(spread > 0, spread, 1)
    sixth = jnp.where(image.argmax(-1) == 0, (g - b) % 6, jnp.where(image.argmax(-1) == 1, b - r + 2, r - g + 4))
    ways = [(n + sixth + 6 * turn) % 6 for n in (5, 3, 1)]
    return jnp.stack([most - spread * jnp.clip(jnp.minimum(k, 4 - k), 0, 1) for k in ways], -1)


def gamma(image: jax.Array, power: jax.Array) -> jax.Array:
    """All pixels to this power."""
    return jnp.clip(image, 1e-8, 1) ** power


CHANGES = (brightness, contrast, saturation, hue, gamma)


def jittered(key: jax.Array, image: jax.Array, least: tuple[float, ...], most: tuple[float, ...]) -> jax.Array:
    """The image after all of `CHANGES`, in an order of its own, each with a factor between its least and its most."""
    order, draw = jax.random.split(key)
    factors = jax.random.uniform(draw, (len(CHANGES),), minval=jnp.asarray(least), maxval=jnp.asarray(most))

    def one(image, which):
        return jax.lax.switch(which, CHANGES, image, factors[which]), None

    return jax.lax.scan(one, image, jax.random.permutation(order, len(CHANGES)))[0]

"""CoTTA: an evaluation by hand over three batches, its views, and what is refused."""

from __future__ import annotations

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage

from jaxfer.conformance.training import entered
from jaxfer.errors import InputError
from jaxfer.methods import _pixels, cotta
from jaxfer.rules import flatten, unflatten
from jaxfer.training.evaluation import evaluate_split
from tests.experiments import tiny_stage
from tests.methods.test_tent import ONE, SETTINGS, built, normalised


def softmax(x):
    return np.asarray(jax.nn.softmax(np.asarray(x, np.float64)))


@pytest.mark.parametrize(
    ("confidence", "augment"),
    [(0.0, "light"), pytest.param(1.0, "light", marks=pytest.mark.rest), (1.0, "authors")],
)
def test_three_batches_by_hand(confidence, augment):
    """The teacher answers before the step, alone or as the mean of its views; the student learns, both begin alike."""
    options = {"reset": "online", "adapt_rate": 0.02, "views": 2, "average_decay": 0.6, "restored": 0.0}
    stage = tiny_stage(
        "resnet_basic", adds=("cotta",), options={**options, "confidence": confidence, "augment": augment}
    )
    state = entered(stage).replace(key=None, opt_state=(), hparams={})
    split = built("resnet_basic").splits["train"].take(np.arange(20))
    found = evaluate_split(stage.spec, ONE.place(stage.spec, state), split, ONE, 8).collected
    images, port = normalised(stage.spec.port, split), stage.spec.port

    @jax.jit
    def forward(leaves, x):
        return port.apply(unflatten(leaves), state.model_state, {"image": x}, training=SETTINGS)[0]

    @jax.jit
    @jax.grad
    def gradient(leaves, x, taught):
        p = jax.nn.softmax(taught)
        return -(p * jax.nn.log_softmax(forward(leaves, x))).sum(-1).mean()

    mean, std = (np.float32(values) for values in (port.encoding.mean, port.encoding.std))

    def view(key, x):
        if augment == "light":
            return cotta.augmented(key, jnp.asarray(x))
        return (cotta.pixels(key, jnp.asarray(x * std + mean)) - mean) / std

    student = teacher = flatten(state.params)
    tx, rows = optax.adam(0.02), []
    opt = tx.init(student)
    for number, begin in enumerate(range(0, 20, 8)):
        x = images[begin : begin + 8]
        taught = forward(teacher, x)
        if confidence:
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), number), 0)
            several = [forward(teacher, view(one, x)) for one in jax.random.split(key, 2)]
            taught = sum(several) / 2
        rows.append(taught)
        updates, opt = tx.update(gradient(student, x, taught), opt)
        student = optax.apply_updates(student, updates)
        teacher = {path: 0.6 * y + 0.4 * student[path] for path, y in teacher.items()}
    np.testing.assert_allclose(found, np.concatenate(rows), rtol=2e-3, atol=5e-4)
    untouched = [forward(flatten(state.params), images[i : i + 8]) for i in (0, 8, 16)]
    assert np.abs(found - np.concatenate(untouched))[8:].max() > 1e-2


def test_numbers_are_set_back_with_their_chance():
    now, source = {"a": np.zeros((100, 100)), "b": np.zeros(50)}, {"a": np.ones((100, 100)), "b": np.ones(50)}
    found = cotta.set_back(jax.random.key(0), now, source, 0.1)
    assert float(found["a"].mean()) == pytest.approx(0.1, abs=0.01)
    assert not np.any(cotta.set_back(jax.random.key(0), now, source, 0.0)["a"])
    assert np.all(cotta.set_back(jax.random.key(0), now, source, 1.0)["b"] == 1)


def test_the_loss_by_hand():
    taught, own = np.random.default_rng(0).normal(size=(2, 5, 3))
    with jax.enable_x64(True):
        found = float(cotta.crossed(jnp.asarray(taught), jnp.asarray(own)).astype(float))
    wanted = -(softmax(taught) * np.log(softmax(own))).sum(1).mean()
    assert found == pytest.approx(wanted, rel=1e-6)
    assert not np.any(jax.grad(lambda t: cotta.crossed(t, jnp.asarray(own)))(jnp.asarray(taught)))


def test_views_are_near_the_images():
    """Every image gets a view of its own, of a like brightness and contrast, and the same in every evaluation."""
    y, x = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 16), indexing="ij")
    image = np.exp(-3 * (y**2 + x**2))[..., None].repeat(3, -1).astype(np.float32)
    images = np.stack([image] * 6)
    view = np.asarray(cotta.augmented(jax.random.key(1), jnp.asarray(images)))
    assert view.shape == images.shape and np.isfinite(view).all()
    assert all(np.abs(view[0] - other).max() > 0.05 for other in view[1:])
    for each in view:  # a blob in the middle looks the same however it is turned a little
        assert np.corrcoef(each.ravel(), image.ravel())[0, 1] > 0.9
    np.testing.assert_array_equal(view, cotta.augmented(jax.random.key(1), jnp.asarray(images)))
    right = np.broadcast_to(x[..., None], images.shape).astype(np.float32)  # brighter to the right
    slopes = []
    for mirror in (True, False):
        views = cotta.augmented(jax.random.key(1), jnp.asarray(right), mirror)
        slopes.append([np.corrcoef(each[..., 0].ravel(), x.ravel())[0, 1] for each in np.asarray(views)])
    assert min(slopes[0]) < -0.9 and min(slopes[1]) > 0.9


def test_the_authors_views():
    """Pixels from 0 to 1, each image in its own way, grey ones stay grey."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(1, 9, 9, 3)).repeat(4, 0), jnp.float32)
    views = np.asarray(cotta.pixels(jax.random.key(0), images))
    assert views.min() >= 0 and views.max() <= 1 and np.isfinite(views).all()
    assert all(np.abs(views[0] - other).max() > 0.05 for other in views[1:])
    alike = np.asarray(cotta.pixels(jax.random.key(0), images[..., :1].repeat(3, -1)))
    assert np.abs(alike - alike.mean(-1, keepdims=True)).max() < 0.03  # of the noise, 0.005 wide
    assert cotta.pixels(jax.random.key(0), images[..., :1]).shape == (4, 9, 9, 1)


def test_changes_of_pixels():
    """Against the standard library's colours, SciPy's correlation and NumPy."""
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(6, 7, 3))
    image[0, 0], image[0, 1] = 0.3, (0.5, 0.5, 0.2)  # grey, and two channels of one value
    with jax.enable_x64(True):
        x = jnp.asarray(image)
        turned = np.array([[colorsys.rgb_to_hsv(*pixel) for pixel in row] for row in image])
        turned[..., 0] = (turned[..., 0] + 0.3) % 1
        wanted = [[colorsys.hsv_to_rgb(*pixel) for pixel in row] for row in turned]
        np.testing.assert_allclose(_pixels.hue(x, 0.3), wanted, atol=1e-9)
        np.testing.assert_allclose(_pixels.hue(x, -0.7), wanted, atol=1e-9)
        own = image @ [0.2989, 0.587, 0.114]
        np.testing.assert_allclose(_pixels.brightness(x, 1.4), np.clip(1.4 * image, 0, 1))
        np.testing.assert_allclose(_pixels.contrast(x, 1.3), np.clip(1.3 * image - 0.3 * own.mean(), 0, 1), atol=1e-12)
        np.testing.assert_allclose(_pixels.saturation(x, 0.5), 0.5 * image + 0.5 * own[..., None], atol=1e-12)
        np.testing.assert_allclose(_pixels.gamma(x, 0.7), image**0.7)
        weights = np.exp(-0.5 * np.square(np.arange(-2, 3) / 0.5))
        weights = np.outer(weights, weights) / weights.sum() ** 2
        smooth = [scipy.ndimage.correlate(image[..., i], weights, mode="nearest") for i in range(3)]
        np.testing.assert_allclose(_pixels.blurred(x, 0.5), np.stack(smooth, -1), atol=1e-12)
        np.testing.assert_allclose(_pixels.blurred(x, 0.001), image, atol=1e-12)
        moved = _pixels.affine(x, 90.0, 1.0, jnp.asarray([0.0, 0.0]))
        square = _pixels.affine(x[:6, :6], 90.0, 1.0, jnp.asarray([0.0, 0.0]))
        assert moved.shape == x.shape
        np.testing.assert_allclose(square, np.rot90(image[:6, :6], -1), atol=1e-5)
        right = _pixels.affine(x, 0.0, 1.0, jnp.asarray([0.0, 2.0]))
        np.testing.assert_allclose(right[:, 2:], image[:, :-2], atol=1e-6)
        one, other = (_pixels.jittered(jax.random.key(seed), x, (0.5,) * 5, (0.5,) * 5) for seed in (0, 1))
        assert np.abs(one - other).max() > 1e-3  # another order


def test_what_is_refused():
    for options, line in (
        ({"reset": "never"}, "options.reset: cotta expects .* or 'continual' .*, found 'never'"),
        ({"reset": "online", "restored": 2.0}, "options.restored: expected 0 to 1, found 2.0"),
        ({"augment": "heavy"}, "options.augment must be one of 'light', 'authors', found 'heavy'"),
        ({"reset": "online", "views": -1}, "options.views: expected at least 0, found -1"),
    ):
        with pytest.raises(InputError, match=line):
            tiny_stage("resnet_basic", adds=("cotta",), options=options)
    with pytest.raises(InputError, match="cotta: its views are of images, .*; set options.views to 0"):
        tiny_stage("bert_pooler", adds=("cotta",), options={"reset": "online"})
    stage = tiny_stage("bert_pooler", adds=("cotta",), options={"views": 0})
    assert stage.spec.method.adapt.reset == "continual"

"""Mixup and CutMix: timm's formulas in NumPy on the same draws, the loss of soft labels, slices and devices."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import beta

from jaxfer.config import override, resolve
from jaxfer.config.experiment import ParallelConfig
from jaxfer.conformance import methods, tiny
from jaxfer.conformance.training import entered
from jaxfer.errors import InputError
from jaxfer.method import Context
from jaxfer.methods.mixup import FOLD, PARTNER, Draws, blended, draws, units_of
from jaxfer.parallel.placement import placement
from jaxfer.registry import ADDS, METHODS, TASKS
from jaxfer.step import make_train_step
from jaxfer.training.cut import cut
from jaxfer.training.programs import compiles
from tests.experiments import backbone, batches, tiny_config, tiny_stage, train

PORT = tiny.make("vit_cls")  # of images 6 x 9 x 3, three classes
OFF = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "switch_prob": 0.5, "mix_prob": 1.0, "mix_until": 0.0}
BOTH = OFF | {"mixup_alpha": 0.4, "cutmix_alpha": 2.0}
ELEM = 8  # units of a batch of eight, each on its own


@jax.jit
def drawn(key, hparams, step):
    return draws(key, ELEM, hparams, step, (6, 9))


def many(steps=120, step=0, **hparams):
    """Eight draws of each of so many steps, [8 * steps]."""
    hparams = {name: jnp.float32(value) for name, value in (OFF | hparams).items()}
    found = [drawn(jax.random.key(seed), hparams, jnp.int32(step)) for seed in range(steps)]
    return Draws(*(np.concatenate(each) for each in zip(*jax.device_get(found), strict=True)))


@pytest.mark.parametrize("name", ["mixup_alpha", "cutmix_alpha"])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 2.0])
def test_shares_are_drawn_from_a_beta_distribution(name, alpha):
    found = many(**{name: alpha})
    assert (found.cut == (name == "cutmix_alpha")).all()
    ranked, uniform = np.sort(found.share), (np.arange(960) + 0.5) / 960
    inside = (ranked > 1e-6) & (ranked < 1 - 1e-6)  # float32 rounds the ends
    assert np.abs(beta.cdf(ranked, alpha, alpha) - uniform)[inside].max() < 0.05  # Kolmogorov-Smirnov, p = 0.01
    assert set(found.y) == set(range(6)) and set(found.x) == set(range(9))


def test_the_probabilities_and_the_end():
    found = many(**BOTH | {"switch_prob": 0.25, "mix_prob": 0.6})
    assert found.cut.mean() == pytest.approx(0.25, abs=0.05)
    assert (found.share < 1).mean() == pytest.approx(0.6, abs=0.05)
    assert (many(2, step=2, **BOTH | {"mix_until": 3.0}).share < 1).all()
    for step, fields in ((3, BOTH | {"mix_until": 3.0}), (0, BOTH | {"mix_prob": 0.0}), (0, OFF)):
        assert (many(2, step, **fields).share == 1).all()


def timm(images, given, mix):
    """(images, lam [batch]) by the formulas of timm's `Mixup`, modes `batch`, `pair` and `elem`."""
    size, height, width, _ = images.shape
    out, lams = images.copy(), np.ones(size)
    for i in range(size):
        j = size - 1 - i
        unit = {"batch": 0, "pair": min(i, j), "elem": i}[mix]
        lam = float(given.share[unit])
        if given.cut[unit]:
            ratio = np.sqrt(1 - lam)
            cut_h, cut_w = int(height * ratio), int(width * ratio)
            cy, cx = given.y[unit], given.x[unit]
            yl, yh = np.clip(cy - cut_h // 2, 0, height), np.clip(cy + cut_h // 2, 0, height)
            xl, xh = np.clip(cx - cut_w // 2, 0, width), np.clip(cx + cut_w // 2, 0, width)
            out[i, yl:yh, xl:xh] = images[j, yl:yh, xl:xh]
            lam = 1.0 - (yh - yl) * (xh - xl) / float(height * width)
        else:
            out[i] = images[i] * lam + images[j] * (1 - lam)
        lams[i] = lam
    return out, lams


def given(rng, units):
    share = np.where(rng.random(units) < 0.8, rng.beta(0.8, 0.8, units), 1.0).astype(np.float32)
    return Draws(share, rng.random(units) < 0.5, rng.integers(0, 6, units), rng.integers(0, 9, units))


@pytest.mark.parametrize(("mix", "size"), [("batch", 8), ("pair", 8), ("pair", 7), ("elem", 8)])
def test_images_and_shares_are_timms_on_the_same_draws(mix, size):
    rng, (units, unit), seen, blend = np.random.default_rng(0), units_of(mix, size), set(), jax.jit(blended)
    for _ in range(12):
        images, drawn = rng.normal(size=(size, 6, 9, 3)).astype(np.float32), given(rng, units)
        (mixed, shares), (expected, lams) = blend(images, drawn, unit), timm(images, drawn, mix)
        np.testing.assert_allclose(mixed, expected, atol=1e-6)
        np.testing.assert_allclose(shares, lams, atol=1e-6)
        cut = np.asarray(drawn.cut)[np.asarray(unit)] | (lams == 1)
        np.testing.assert_array_equal(mixed[cut], expected[cut])  # copied, not computed
        seen |= {*lams}
    assert len(seen) > {"batch": 8, "pair": 20, "elem": 40}[mix]


@pytest.mark.parametrize("name", ["classification", "multilabel"])
def test_the_loss_is_the_cross_entropy_of_the_soft_label(name):
    """Smoothing lies inside the mix, as in timm's `mixup_target`; of sets of labels the shares are those of each."""
    rng, task = np.random.default_rng(1), TASKS.make(name)
    label, share = rng.integers(0, 3, 8), rng.random(8).astype(np.float32)
    outputs, off = rng.normal(size=(8, 3)).astype(np.float32), 0.1 / 3
    one_hot = np.where(np.arange(3) == label[:, None], 1 - 0.1 + off, off)
    if name == "multilabel":
        label = one_hot = rng.random((8, 3)) < 0.5
    soft = share[:, None] * one_hot + (1 - share[:, None]) * one_hot[::-1]
    batch = {"image": outputs, "label": label, PARTNER: {"targets": {"label": label[::-1]}, "share": share}}
    ctx = Context(None, task, batch, {}, {}, {"label_smoothing": 0.1}, {}, jnp.int32(0), jax.random.key(0))
    found, _ = ADDS.make("mixup", METHODS.make("full", PORT), PORT).loss(ctx, outputs)
    if name == "classification":
        expected = -(soft * (outputs - np.log(np.exp(outputs).sum(1, keepdims=True)))).sum(1)
    else:
        expected = (np.log1p(np.exp(outputs)) - soft * outputs).mean(1)
    assert float(found) == pytest.approx(expected.mean(), rel=1e-5)


def test_a_partners_label_goes_with_what_the_loss_reads_of_it():
    """LDAM's margin is of the label's class: of two examples that are mixed whole with each other it is the other's."""
    task, add = TASKS.make("classification", loss="ldam"), ADDS.make("mixup", METHODS.make("full", PORT), PORT)
    outputs = np.asarray([[0.3, -0.2, 0.1], [0.0, 0.4, -0.5]], np.float32)
    given = {"label": np.asarray([0, 2]), "margin": np.asarray([1.0, 0.5], np.float32)}
    hparams = {"label_smoothing": 0.0, "max_margin": 0.5, "scale": 3.0, **BOTH, "cutmix_alpha": 0.0}
    images = np.zeros((2, 6, 9, 3), np.float32)
    ctx = Context(None, task, {"image": images, **given}, {}, {}, hparams, {}, jnp.int32(0), jax.random.key(0))
    mixed = add.batch(ctx)
    share = mixed[PARTNER]["share"]
    found, _ = add.loss(dataclasses.replace(ctx, batch=mixed), outputs)
    own, other = (
        task.loss(outputs, {name: x[order] for name, x in given.items()}, hparams).total for order in ([0, 1], [1, 0])
    )
    assert float(found) == pytest.approx(float((share * own + (1 - share) * other).mean()), rel=1e-6)
    weighed = dataclasses.replace(ctx, task=TASKS.make("classification", class_weights="balanced"), batch=mixed)
    with pytest.raises(InputError, match="add-on mixup mixes labels, config.task.class_weights weighs them whole"):
        add.loss(weighed, outputs)


FIELDS = dict(method="full", adds=("mixup",), optimizer="sgd", momentum=0.0, lr=0.1)
OPTIONS = {"mixup_alpha": 0.4, "cutmix_alpha": 2.0, "mix": "elem"}


def test_a_step_in_slices_is_that_of_the_mixed_batch():
    """The draws are of the step's key, for the whole batch. One program for all strengths."""
    stage = tiny_stage("vit_cls", options=OPTIONS, accumulate=2, **FIELDS)
    (params, _), (batch,), state = backbone(stage), batches(stage, 1), entered(stage)
    key = jax.random.fold_in(jax.random.fold_in(state.key, 0), FOLD)
    images, share = blended(batch["image"], drawn(key, BOTH, jnp.int32(0)), jnp.arange(8))
    label, share = batch["label"], np.asarray(share)[:, None]
    assert share.min() < 0.5 < share.max()
    soft = share * np.eye(3)[label] + (1 - share) * np.eye(3)[label][::-1]

    outputs = jax.jit(lambda: stage.spec.port.apply(params, {}, {"image": images})[0])()
    before, (loss, last) = compiles(), train(stage, 2)[1]
    assert loss == pytest.approx(-(soft * np.asarray(jax.nn.log_softmax(outputs))).sum(1).mean(), rel=1e-5)
    assert last != loss
    train(tiny_stage("vit_cls", options=OPTIONS | {"mixup_alpha": 0.0, "mix_until": 5.0}, accumulate=2, **FIELDS), 1)
    assert compiles() == before + 1


@pytest.mark.system
@pytest.mark.parametrize(("case", "mix"), [("vit_cls", "elem"), ("resnet_basic", "batch")])
def test_the_add_on_passes_the_conformance_suite(case, mix, monkeypatch):
    def stage(case, method, **fields):
        return tiny_stage(case, method=method, adds=("mixup",), options=OPTIONS | {"mix": mix}, **fields)

    monkeypatch.setattr(methods, "tiny_stage", stage)
    monkeypatch.setattr(methods, "planned", lambda method, case: stage(case, method))
    for check in (*methods.SHAPES, *methods.NUMBERS, methods.PLACED[0]):
        assert check("full", case) is None, check.__name__


def refused(**fields):
    return tiny_stage(fields.pop("case", "vit_cls"), adds=("mixup",), **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"case": "bert_pooler"}, "add-on mixup mixes images, the model reads texts; remove it"),
        ({"options": {"mix": "pairs"}}, "options.mix: unknown 'pairs'; nearest: 'pair'"),
        ({"options": {"mix_prob": 1.5}}, "config.options.mix_prob: expected 0 to 1, found 1.5"),
        ({"options": {"cutmix_alpha": -1.0}}, "config.options.cutmix_alpha: expected 0 to inf, found -1.0"),
        ({"options": {"mixup_alhpa": 1.0}}, "no such option; nearest: 'mixup_alpha'"),
        ({"method": "simclr"}, "add-on mixup mixes labels, the method learns unlabelled; remove it"),
        (
            {"method": "setfit", "stream": {"partner": {"rows": "pairs"}}},
            "add-on mixup mixes one of the two examples that the method compares; remove it",
        ),
        (
            {"task": {"name": "regression"}, "classes": 0},
            "config.method: 'full' with mixup learns the task classification or multilabel, config.task is",
        ),
    ],
)
def test_what_can_not_be_mixed_is_refused(fields, message):
    with pytest.raises(InputError) as caught:
        refused(**fields)
    assert message in str(caught.value)


def test_a_method_that_reads_labels_itself_is_refused_before_the_first_step():
    stage = refused(method="cotuning", options={"source_outputs": 4})
    with pytest.raises(InputError, match="add-on mixup: the method reads the labels itself, not by its task"):
        jax.eval_shape(make_train_step(stage.spec), stage.blank(0), stage.example())


def test_pmap_is_refused_and_features_are_not_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFER_CACHE", str(tmp_path))
    stage, where = refused(method="probe"), placement(ParallelConfig(mode="pmap", devices=4), [8])
    with pytest.raises(InputError, match="pmap: method 'probe' with mixup changes the batch as a whole; use mode=jit"):
        where.check([stage])
    found = cut(stage, placement(ParallelConfig(devices=1)), resolve(tiny_config("vit_cls")))
    assert found.why == "method 'probe' with mixup changes the examples of each batch"


def test_options_are_typed_on_the_command_line_and_complete_in_the_record():
    config = override(tiny_config("vit_cls"), {"options.mix": "pair", "adds": ("mixup",), "options.mixup_alpha": "1"})
    ((_, stage),) = resolve(config).stages
    assert dict(stage.options) == {"mix": "pair", "mixup_alpha": 1.0}
    ((_, stage),) = resolve(tiny_config("vit_cls", adds=("mixup",))).stages
    assert dict(stage.options) == {"mix": "batch"}

"""Domain adaptation: losses in float64 against reference values (TLlib's, FACTS) and NumPy, and which way they push."""

from __future__ import annotations

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxfer.conformance import tiny
from jaxfer.errors import InputError
from jaxfer.method import NOTHING, Streamed
from jaxfer.methods import _domains, cdan, coral, dan, mcc, mdd
from jaxfer.models.port import FEATURES
from jaxfer.registry import METHODS, TASKS
from jaxfer.rules import flatten
from tests.experiments import tiny_stage

PORT, WIDTH = tiny.make("vit_cls"), 12


def domains():
    """The examples of the reference values: 8 x 5 of each domain."""
    rng = np.random.RandomState(0)
    return rng.randn(8, 5), 1.5 * rng.randn(8, 5) + 0.3


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def unbiased(kernel, n):
    """The estimate, pair by pair."""
    m, pairs = len(kernel) - n, [(i, j) for i in range(len(kernel)) for j in range(len(kernel)) if i != j]
    total = 1 / (n - 1) + 1 / (m - 1)
    for i, j in pairs:
        same = {(True, True): 1 / (n * (n - 1)), (False, False): 1 / (m * (m - 1))}.get((i < n, j < n))
        total += kernel[i, j] * (-1 / (n * m) if same is None else same)
    return total


def in_pairs(kernel, n):
    """DAN's eq. 5, quadruple by quadruple."""
    each = []
    for i in range(0, min(n, len(kernel) - n) // 2 * 2, 2):
        s, s_, t, t_ = i, i + 1, n + i, n + i + 1
        each.append(kernel[s, s_] + kernel[t, t_] - kernel[s, t_] - kernel[s_, t])
    return np.mean(each)


def squared(x):
    return np.square(x[:, None] - x[None]).sum(-1)


def median(x):
    """Of the squared distances of all pairs."""
    return np.median([np.square(a - b).sum() for a, b in itertools.combinations(x, 2)])


def mixed(x):
    """DAN's 33 kernels, from 2^-8 to 2^8 times the median, with equal weights."""
    return sum(np.exp(-squared(x) / (2 ** (k / 2) * median(x))) for k in range(-16, 17)) / 33


def step(name, outputs, taps, beside, *, seed=0, done=5, **options):
    """(loss, gradients with respect to the method's own layers, to both domains' features and to both's logits, what is
    logged)."""
    method = METHODS.make(name, PORT, **options)
    hparams = {key: jnp.float32(value) for key, (value, _) in method.hparams.items()}
    hparams |= {"total_steps": jnp.float32(10), "label_smoothing": jnp.float32(0)}
    params, extra = method.init({}, jax.random.key(seed), NOTHING)
    task, batch = TASKS.make("classification"), {"label": jnp.arange(len(outputs)) % 3}

    def loss(params, source, target, outputs, beside):
        streams = {"target": Streamed(beside, {FEATURES: target})}
        ctx = types.SimpleNamespace(
            task=task,
            batch=batch,
            params=params,
            extra=extra,
            hparams=hparams,
            step=done,
            key=jax.random.key(1),
            taps={FEATURES: source},
        )
        ctx.streams = streams
        return method.loss(ctx, outputs)

    (value, logged), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4), has_aux=True))(
        params, *taps, outputs, beside
    )
    return float(value), gradients, {**logged, "task": task.loss(outputs, batch, hparams).value()}, params, extra


def inputs(sources=6, targets=4, seed=1):
    rng = np.random.default_rng(seed)
    draw = [rng.normal(size=shape).astype(np.float32) for shape in ((sources, 3), (targets, 3))]
    features = [rng.normal(size=(n, WIDTH)).astype(np.float32) for n in (sources, targets)]
    return draw[0], features, draw[1]


def test_reference_values():
    """Of TLlib's code, and the paper's for CORAL."""
    s, t = domains()
    with jax.enable_x64(True):
        s, t = jnp.asarray(s), jnp.asarray(t)
        found = {
            "coral": coral.distance(s, t),
            "coral of TLlib": coral.distance(s, t, True),
            "dan of TLlib": _domains.discrepancy(dan.kernel(s, t, "mean"), 8),
            "mcc": mcc.confusion(t, 2.5),
            "mdd": mdd.disparity(s, t, t, s, 4.0),
        }
        found = {name: float(value) for name, value in found.items()}
    assert found == {
        "coral": pytest.approx(0.2454712201, abs=1e-9),
        "coral of TLlib": pytest.approx(1.5996254512, abs=1e-9),
        "dan of TLlib": pytest.approx(0.7188654083, abs=1e-9),
        "mcc": pytest.approx(0.7504581519, abs=1e-9),
        "mdd": pytest.approx(-7.2487785592, abs=1e-9),
    }


def test_the_papers_kernels_and_linear_estimate_of_dan():
    """On the same examples, in float64; unequal numbers leave examples over."""
    s, t = domains()
    x = np.concatenate([s, t])
    with jax.enable_x64(True):
        kernel = dan.kernel(jnp.asarray(s), jnp.asarray(t), "median")
        found = {name: float(estimate(kernel, 8)) for name, estimate in _domains.ESTIMATES.items()}
        fewer = float(_domains.in_pairs(kernel[:13, :13], 8))
        few = float(_domains.in_pairs(dan.kernel(jnp.asarray(s), jnp.asarray(t), "median", (1.0, 3.0)), 8))
    assert found == {
        "linear": pytest.approx(in_pairs(mixed(x), 8), abs=1e-9),
        "all": pytest.approx(unbiased(mixed(x), 8), abs=1e-9),
    }
    assert fewer == pytest.approx(in_pairs(mixed(x)[:13, :13], 8), abs=1e-9)
    two = sum(np.exp(-squared(x) / (2 * multiple * median(x))) for multiple in (1, 3)) / 2
    assert few == pytest.approx(in_pairs(two, 8), abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_learned_weights_of_kernels(seed):
    """Eq. 8 by Lawson and Hanson's active sets, in the form |L'b - L^-1 d|, L L' = Q + 0.001 I."""
    rng = np.random.default_rng(seed)
    s, t = rng.normal(size=(32, 5)), rng.normal(size=(40, 5)) * 1.3 + 0.4
    with jax.enable_x64(True):
        kernels = _domains.gaussians(jnp.asarray(np.concatenate([s, t])), multiples=dan.OF_MEDIAN, width="median")
        each = jnp.stack([_domains.quadruples(kernel, 32) for kernel in kernels])
        found, nothing = np.asarray(dan.weights(each)), np.asarray(dan.weights(0 * each))
    each = np.asarray(each)
    np.testing.assert_allclose(
        each[7, 3],
        sum(sign * np.asarray(kernels[7])[a, b] for sign, a, b in ((1, 6, 7), (1, 38, 39), (-1, 6, 39), (-1, 7, 38))),
    )
    d, apart = each.mean(1), each[:, 0::2] - each[:, 1::2]
    q = apart @ apart.T / 8 + 1e-3 * np.eye(33)
    lower = np.linalg.cholesky(q)
    best, _ = scipy.optimize.nnls(lower.T, np.linalg.solve(lower, d))
    best /= best.sum()
    np.testing.assert_allclose(found, best, atol=2e-3)
    assert found.min() >= 0 and found.sum() == pytest.approx(1)

    def ratio(b):
        return (d @ b) ** 2 / (b @ q @ b)

    assert ratio(found) == pytest.approx(ratio(best), rel=1e-5) and ratio(best) > 1.2 * ratio(np.full(33, 1 / 33))
    np.testing.assert_allclose(nothing, 1 / 33)


def test_several_layers_of_dan():
    """The sum over what the output layer reads and the means over the places of a unit, learned weights of each."""
    stage = tiny_stage("vit_cls", method="dan", options={"learned": True, "layers": ("block_0",)})
    assert stage.spec.method.taps == ("features", "block_0")
    rng = np.random.default_rng(0)
    taps = [
        {
            "features": rng.normal(size=(8, 3)).astype(np.float32),
            "block_0": rng.normal(size=(8, 5, 4)).astype(np.float32),
        }
        for _ in range(2)
    ]
    outputs, task = rng.normal(size=(8, 3)).astype(np.float32), stage.spec.task
    ctx = types.SimpleNamespace(
        task=task,
        batch={"label": np.arange(8) % 3, "weight": np.ones(8, np.float32)},
        hparams={"trade_off": 2.0, "label_smoothing": 0.0},
        taps=taps[0],
        streams={"target": types.SimpleNamespace(taps=taps[1])},
    )
    value, logged = stage.spec.method.loss(ctx, outputs)
    wanted = 0
    for both in (
        np.concatenate([tap["features"] for tap in taps]),
        np.concatenate([t["block_0"].mean(1) for t in taps]),
    ):
        kernels = _domains.gaussians(jnp.asarray(both), multiples=dan.OF_MEDIAN, width="median")
        each = jnp.stack([_domains.quadruples(kernel, 8) for kernel in kernels])
        wanted += float(dan.weights(each) @ each.mean(1))
    assert float(logged["mmd"]) == pytest.approx(wanted, rel=1e-5)
    plain, _ = METHODS.make("full", stage.spec.port).loss(ctx, outputs)
    assert float(value - plain) == pytest.approx(2 * wanted, rel=1e-4)
    with pytest.raises(InputError, match="options.layers: no unit 'block_7'; nearest: 'block_1', 'block_0'"):
        tiny_stage("vit_cls", method="dan", options={"layers": ("block_7",)})
    with pytest.raises(InputError, match="options.learned: expected estimate=linear and width=median, found all and"):
        tiny_stage("vit_cls", method="dan", options={"learned": True, "estimate": "all"})


def test_equal_examples_have_no_median_and_no_nan():
    value, of_x = jax.value_and_grad(lambda x: _domains.in_pairs(dan.kernel(x, x + 0.0, "median"), 4))(jnp.ones((4, 3)))
    assert float(value) == 0 and not np.any(of_x)


def test_the_reversed_gradients_weight():
    """The paper's 2 / (1 + exp(-10 p)) - 1 is tanh(5 p), p being the share of the steps that are done."""
    with jax.enable_x64(True):
        hparams = {"total_steps": jnp.float64(10_000), "slope": jnp.float64(10)}
        found = {
            p: float(_domains.rising(types.SimpleNamespace(step=jnp.int64(round(p * 10_000)), hparams=hparams)))
            for p in (0.0, 0.1, 0.5, 1.0)
        }
        x = jnp.asarray([3.0, -2.0])
        value, back = jax.vjp(lambda x: _domains.reverse(x, found[0.1]), x)
        assert value.tolist() == pytest.approx([3.0, -2.0], abs=1e-12)
        assert back(jnp.ones(2))[0].tolist() == pytest.approx([-0.46211715726] * 2, abs=1e-9)
    assert found == {
        0.0: 0.0,
        0.1: pytest.approx(0.462117157260, abs=1e-9),
        0.5: pytest.approx(0.986614298151, abs=1e-9),
        1.0: pytest.approx(0.999909204263, abs=1e-9),
    }


TLLIB = {"width": "mean", "estimate": "all"}
DISTANCES = {
    "coral": ("coral", {}),
    "coral of features": ("coral", {"layer": "features"}),
    "dan": ("dan", {}),
    "dan of TLlib": ("dan", TLLIB),
    "jan": ("jan", {}),
    "jan of TLlib": ("jan", TLLIB),
    "jan, both": ("jan", {"estimate": "all", "deviation": 0.5}),
    "mcc": ("mcc", {}),
}


@pytest.mark.parametrize("case", DISTANCES)
def test_distances_of_batches_of_two_sizes(case):
    """The task's loss plus trade_off times the distance, by hand."""
    outputs, (source, target), beside = inputs()
    name, options = DISTANCES[case]
    value, _, logged, *_ = step(name, outputs, (source, target), beside, **options)
    both = np.concatenate([source, target]).astype(np.float64)
    kernel = sum(np.exp(-squared(both) / (2 * 2.0**k * squared(both).mean())) for k in range(-3, 2))
    chances, waver = softmax(np.concatenate([outputs, beside]).astype(np.float64)), softmax(beside / 2.5)
    of_features, of_chances = (np.exp(-squared(x) / median(x)) for x in (both, chances))
    weights = 1 + np.exp((waver * np.log(waver + 1e-5)).sum(1))
    confused = np.einsum("n,ni,nj->ij", weights, waver, waver)
    confused /= confused.sum(1, keepdims=True)
    wanted = {
        "coral": np.square(np.cov(outputs.T) - np.cov(beside.T)).sum() / (4 * 3**2),
        "coral of features": np.square(np.cov(source.T) - np.cov(target.T)).sum() / (4 * WIDTH**2),
        "dan": in_pairs(mixed(both), 6),
        "dan of TLlib": unbiased(kernel, 6),
        "jan": in_pairs(of_features * of_chances, 6),
        "jan of TLlib": unbiased(kernel * np.exp(-squared(chances) / (2 * 0.92**2)), 6),
        "jan, both": unbiased(of_features * np.exp(-squared(chances) / (2 * 0.5**2)), 6),
        "mcc": 1 - np.trace(confused) / 3,
    }
    assert value - float(logged["task"]) == pytest.approx(wanted[case], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"entropy": True}, {"entropy": True, "jointly": True}])
def test_cdan_by_hand(options):
    """The outer product, the weights of both kinds, and a reversed gradient for the features alone."""
    outputs, (source, target), beside = inputs()
    value, (of_stack, *of_features, _, of_beside), logged, params, extra = step(
        "cdan", outputs, (source, target), beside, hidden=5, layers=1, **options
    )
    stack, chances = params["discriminator"]["head"], softmax(np.concatenate([outputs, beside]))
    entropy = -(chances * np.log(chances + 1e-5)).sum(1)
    weights = 1 + np.exp(-entropy) if options else np.ones(10)
    first = np.arange(10) < 6
    share = 1 / weights.sum() if "jointly" in options else 0.5 / np.where(first, weights[:6].sum(), weights[6:].sum())

    def confusion(stack, source, target):
        x = jnp.einsum("nd,nc->ndc", jnp.concatenate([source, target]), chances).reshape(10, -1)
        x = jax.nn.relu(x @ stack["layer_0"]["kernel"] + stack["layer_0"]["bias"])
        logits = (x @ stack["layer_1"]["kernel"] + stack["layer_1"]["bias"])[:, 0]
        return (weights * share * jnp.logaddexp(0.0, jnp.where(first, -logits, logits))).sum()

    wanted, gradients = jax.jit(jax.value_and_grad(confusion, argnums=(0, 1, 2)))(stack, source, target)
    assert extra == {} and value - float(logged["task"]) == pytest.approx(float(wanted), rel=1e-5)
    assert not np.any(of_beside), "no gradient goes through the predictions"
    strength = 2 / (1 + np.exp(-10 * 5 / 10)) - 1
    for found, expected in zip(of_features, gradients[1:], strict=True):
        np.testing.assert_allclose(found, -strength * expected, rtol=1e-4, atol=1e-7)
    for path, expected in flatten(gradients[0]).items():
        found = flatten(of_stack["discriminator"]["head"])[path]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_the_reversed_gradient_of_cdans_weights():
    """As the authors' code: through the entropies and not through the sums that they are divided by."""
    outputs, taps, beside = inputs()
    options = {"hidden": 5, "layers": 1, "entropy": True}
    plain, _, logged, *_ = step("cdan", outputs, taps, beside, **options)
    value, (*_, found), _, params, _ = step("cdan", outputs, taps, beside, entropy_gradient=True, **options)
    assert value == pytest.approx(plain, rel=1e-6)
    stack, chances = params["discriminator"]["head"], softmax(np.concatenate([outputs, beside]))
    x = np.einsum("nd,nc->ndc", np.concatenate(taps), chances).reshape(10, -1)
    x = np.maximum(x @ stack["layer_0"]["kernel"] + stack["layer_0"]["bias"], 0)
    logits = (x @ stack["layer_1"]["kernel"] + stack["layer_1"]["bias"])[6:, 0]

    def weight(beside):
        p = jax.nn.softmax(beside)
        return 1 + jnp.exp((p * jnp.log(p + 1e-5)).sum(1))

    each = jnp.logaddexp(0.0, logits) / (2 * weight(beside).sum())
    expected = jax.grad(lambda beside: (weight(beside) * each).sum())(jnp.asarray(beside))
    strength = 2 / (1 + np.exp(-10 * 5 / 10)) - 1
    np.testing.assert_allclose(found, -strength * expected, rtol=1e-4, atol=1e-7)
    with pytest.raises(InputError, match="options.entropy_gradient: it is about the weights of entropy=True"):
        METHODS.make("cdan", PORT, entropy_gradient=True)


def test_the_random_map_of_cdan():
    """Above 4096 numbers (R_f f) * (R_g g) / sqrt(d), whose inner products are those of the outer products."""
    port = tiny.make("vit_cls", outputs=400)  # 12 * 400 > 4096
    method = METHODS.make("cdan", port, hidden=4, layers=1, random=64)
    params, maps = method.init({}, jax.random.key(0), NOTHING)
    assert {name: leaf.shape for name, leaf in maps.items()} == {"features": (12, 64), "chances": (400, 64)}
    assert params["discriminator"]["head"]["layer_0"]["kernel"].shape == (64, 4)
    rng = np.random.default_rng(0)
    f, g = rng.normal(size=(2, 3)), rng.normal(size=(2, 4))
    wide = {"features": rng.normal(size=(3, 200_000)), "chances": rng.normal(size=(4, 200_000))}
    by_hand = (f @ wide["features"]) * (g @ wide["chances"]) / np.sqrt(200_000)
    found = np.asarray(cdan.conditioned(f, g, wide))
    np.testing.assert_allclose(found, by_hand, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found @ found.T, (f @ f.T) * (g @ g.T), rtol=0.1, atol=0.05)


def test_mdd_by_hand():
    """The second head descends on margin * CE - log(1 - p), the backbone ascends, at a tenth of dann's strength."""
    outputs, (source, target), beside = inputs()
    value, (of_stack, *of_features, _, _), logged, params, _ = step(
        "mdd", outputs, (source, target), beside, hidden=5, layers=1
    )
    stack = params["adversary"]["head"]

    def disagreement(stack, source, target):
        x = jax.nn.relu(jnp.concatenate([source, target]) @ stack["layer_0"]["kernel"] + stack["layer_0"]["bias"])
        logs = jax.nn.log_softmax(x @ stack["layer_1"]["kernel"] + stack["layer_1"]["bias"])
        first = np.concatenate([outputs, beside]).argmax(1)
        of_class = logs[np.arange(10), first]
        return -4 * of_class[:6].mean() - jnp.log(1 - jnp.exp(of_class[6:]) + 1e-6).mean()

    wanted, gradients = jax.jit(jax.value_and_grad(disagreement, argnums=(0, 1, 2)))(stack, source, target)
    assert value - float(logged["task"]) == pytest.approx(float(wanted), rel=1e-5)
    strength = 0.1 * (2 / (1 + np.exp(-10 * 5 / 10)) - 1)
    for found, expected in zip(of_features, gradients[1:], strict=True):
        np.testing.assert_allclose(found, -strength * expected, rtol=1e-3, atol=1e-6)
    for path, expected in flatten(gradients[0]).items():
        found = flatten(of_stack["adversary"]["head"])[path]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_mdd_of_a_model_whose_head_has_a_hidden_layer_reads_what_is_below_it():
    """As the authors' network: each head has a hidden layer of its own over one bottleneck."""
    port = tiny.make("vit_cls", neck=7, neck_hidden=5)
    method = METHODS.make("mdd", port, hidden=6)
    params, _ = method.init({}, jax.random.key(0), NOTHING)
    assert method.taps == ("bottleneck",) and params["adversary"]["head"]["layer_0"]["kernel"].shape == (7, 6)
    port = tiny.make("vit_cls", neck=7)
    params, _ = METHODS.make("mdd", port, hidden=6).init({}, jax.random.key(0), NOTHING)
    assert METHODS.make("mdd", port).taps == (FEATURES,)
    assert params["adversary"]["head"]["layer_0"]["kernel"].shape == (7, 6)


def test_the_dropout_of_mdds_second_head():
    """Kept values are divided by the rate of keeping, those of each layer are drawn by themselves."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(200, 50)), jnp.float32)
    activation = mdd.dropped(jax.random.key(0), 0.25)
    first, second = (np.asarray(activation(x)) for _ in range(2))
    positive = np.asarray(x) > 0
    for found in (first, second):
        np.testing.assert_allclose(found[found > 0], np.asarray(x)[found > 0] / 0.75, rtol=1e-6)
        assert (found[~positive] == 0).all() and 0.73 < (found[positive] > 0).mean() < 0.77
    assert 0.5 < ((first > 0) & (second > 0))[positive].mean() < 0.62  # 0.75 squared
    assert (np.asarray(mdd.dropped(jax.random.key(0), 0.0)(x)) == np.maximum(x, 0)).all()
    with pytest.raises(InputError, match=r"options.dropout must be a drop rate in \[0, 1\), found 1.0"):
        METHODS.make("mdd", PORT, dropout=1.0)


def test_what_cannot_apply_is_refused():
    for name in ("coral", "dan", "jan", "mcc", "cdan", "mdd"):
        with pytest.raises(InputError, match=rf"'{name}' reads the stream 'target'; add config.stream.target=dict"):
            bare(name)
    for name, method in ((name, METHODS.make(name, PORT)) for name in ("coral", "dan", "jan", "mcc")):
        assert method.whole_batch, name
    assert METHODS.make("cdan", PORT, entropy=True).whole_batch and not METHODS.make("cdan", PORT).whole_batch
    with pytest.raises(InputError, match="options.jointly: it is about the weights of entropy=True"):
        METHODS.make("cdan", PORT, jointly=True)
    with pytest.raises(InputError, match="options.multiples: expected numbers above 0, found"):
        METHODS.make("dan", PORT, multiples=(1.0, 0.0))
    for name, given, line in (
        ("coral", {"layer": "head"}, "options.layer: expected outputs or features, found 'head'"),
        ("dan", {"width": "mode"}, "options.width: expected median or mean, found 'mode'"),
        ("jan", {"estimate": "some"}, "options.estimate: expected linear or all, found 'some'"),
        ("jan", {"deviation": 0.0}, "expected multiples and deviation above 0, found multiples=None, deviation=0.0"),
    ):
        with pytest.raises(InputError, match=line):
            METHODS.make(name, PORT, **given)
    with pytest.raises(InputError, match="expected hidden >= 1 and layers >= 0, found hidden=0"):
        METHODS.make("mdd", PORT, hidden=0)
    outputs, (source, target), beside = inputs(targets=1)
    with pytest.raises(InputError, match="coral compares pairs of examples of a domain.*found 6 of the source and 1"):
        step("coral", outputs, (source, target), beside)
    with pytest.raises(InputError, match="config.accumulate: the loss of method 'dan' is of the batch as a whole"):
        tiny_stage("vit_cls", method="dan", accumulate=2)


def bare(name):
    """A stage of a config without streams."""
    from jaxfer.config import resolve
    from jaxfer.ports import make_port
    from jaxfer.stages import make_stages
    from tests.experiments import tiny_config

    config = tiny_config("vit_cls")
    config.method = name
    experiment = resolve(config)
    make_stages(experiment, *make_port(experiment, 3))

"""DER++ and A-GEM: what they add to, or take from, a step with examples of an earlier task, by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfer
from jaxfer.conformance import tiny
from jaxfer.errors import InputError
from jaxfer.methods import _reservoir
from jaxfer.methods.agem import projected
from jaxfer.models.port import FEATURES, Training
from jaxfer.registry import METHODS
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_config, tiny_stage, train

FIELDS = dict(optimizer="sgd", lr=0.5, momentum=0.0, weight_decay=0.0)


@pytest.mark.parametrize("options", [{}, {"apart": True}, {"memories": ("memory", "older")}])
def test_der_by_hand(options):
    """After a step: CE + weight * CE of each memory + alpha * the mean square of outputs less those at the start."""
    apart, memories = "apart" in options, options.get("memories", ("memory",))
    stage = tiny_stage("resnet_basic", method="der", options={"alpha": 0.7, **options}, **{**FIELDS, "lr": 0.05})
    (start, norms), (_, batch), port = backbone(stage), batches(stage, 2), stage.spec.port
    state, _ = train(stage, 1)
    training = Training(key=jax.random.key(0), live=stage.spec.live, eval_norms=stage.spec.eval_norms)
    names = sorted(batch.keys() & {"memory", "dark", "older"})  # as the config has them
    read = {name: "dark" if apart else name for name in memories}
    together = {"image": np.concatenate([batch["image"], *(batch[name]["image"] for name in names)])}

    @jax.jit
    def both(params, model_state):
        now = port.forward(params, model_state, together, training=training, taps=(FEATURES,))
        old = {name: port.forward(start, norms, batch[read[name]], taps=(FEATURES,)) for name in memories}
        return now.taps[FEATURES], {name: passed.taps[FEATURES] for name, passed in old.items()}

    now, old = jax.tree.map(lambda x: np.asarray(x, np.float64), both(state.params, state.model_state))
    features = {name: now[8 + 8 * i :][:8] for i, name in enumerate(names)}
    heads, before = state.params["head"]["out"], start["head"]["out"]

    def outputs(features, layer):
        return features @ layer["kernel"] + layer["bias"]

    dark = np.mean(
        [
            np.square(outputs(features[read[name]], heads[name]) - outputs(old[name], before[name])).mean()
            for name in memories
        ]
    )
    asked = [(outputs(now[:8], heads), batch["label"])]
    asked += [(outputs(features[name], heads[name]), batch[name]["label"]) for name in memories]
    losses = [float(optax.softmax_cross_entropy_with_integer_labels(x, y).mean()) for x, y in asked]
    assert dark > 1e-3
    assert train(stage, 2)[1][1] == pytest.approx(sum(losses) + 0.7 * dark, rel=1e-5)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("er", {"memories": ()}, "options.memories: expected one stream or several different ones"),
        ("der", {"memories": ("*",)}, "options.memories: expected one stream or several different ones"),
        ("agem", {"memories": ("memory", "memory")}, "options.memories: expected one stream or several different ones"),
        (
            "der",
            {"memories": ("memory", "older"), "apart": True},
            "options.apart: `dark` has the examples of one memory",
        ),
    ],
)
def test_memories_that_cannot_be_are_refused(method, options, message):
    with pytest.raises(InputError, match=message):
        METHODS.make(method, None, **options)


@pytest.mark.parametrize("shorter", [0, 2])
def test_a_reservoir_is_filled_by_algorithm_r(shorter):
    """One example after the other, by the same draws; a batch of a shorter bucket is padded."""
    port, size, rng = tiny.make("bert_mean"), 5, np.random.default_rng(0)
    kept, shapes = _reservoir.empty(port, size), port.example(4)
    wanted, seen = [None] * size, 0
    for step in range(6):
        key = jax.random.key(step)
        fields = {name: rng.integers(1, 9, (4, s.shape[1] - shorter, *s.shape[2:])) for name, s in shapes.items()}
        batch = {**fields, "label": rng.integers(3, size=4)}
        outputs = rng.normal(size=(4, port.outputs)).astype(np.float32)
        draws = np.asarray(jax.random.randint(key, (4,), 0, seen + np.arange(4) + 1))
        for i in range(4):
            place = seen if seen < size else int(draws[i])
            if place < size:
                wanted[place] = ({name: x[i] for name, x in batch.items()}, outputs[i])
            seen += 1
        kept = jax.jit(_reservoir.filled)(kept, key, batch, outputs)
    assert int(kept["seen"]) == seen == 24
    for place, (example, outputs) in enumerate(wanted):
        np.testing.assert_array_equal(kept["outputs"][place], outputs)
        for name, x in example.items():
            found = kept["examples"][name][place]
            np.testing.assert_array_equal(found[: len(x)] if x.ndim else found, x)
            assert not x.ndim or not np.asarray(found[len(x) :]).any()


def test_a_reservoir_is_a_uniform_sample_and_draws_differ():
    """Each of 40 examples is held by 10 of 40 times 2,000; their number has a standard deviation of 19.4."""
    port = tiny.make("row_mlp")
    blank = _reservoir.empty(port, 10)
    batches = [{**tiny.batch(port, 8), "label": jnp.arange(8) + 8 * step} for step in range(5)]

    @jax.jit
    @jax.vmap
    def held(key):
        kept = blank
        for step, batch in enumerate(batches):
            kept = _reservoir.filled(kept, jax.random.fold_in(key, step), batch, jnp.zeros((8, port.outputs)))
        return kept["examples"]["label"]

    counts = np.bincount(np.asarray(held(jax.random.split(jax.random.key(0), 2000))).ravel(), minlength=40)
    assert counts.sum() == 20_000 and np.abs(counts - 500).max() < 4 * 19.4
    some = _reservoir.filled(blank, jax.random.key(0), batches[1], jnp.zeros((8, port.outputs)))
    drawn = [_reservoir.drawn(some, jax.random.key(i), batches[0])[0]["label"].tolist() for i in range(2)]
    assert sorted(drawn[0]) == sorted(drawn[1]) == [*range(8, 16)] and drawn[0] != drawn[1]
    numbers = tiny.make("row_mlp", categories=(), values=())
    bare, few = _reservoir.empty(numbers, 10), {**tiny.batch(numbers, 8), "label": jnp.arange(8)}
    assert "categories" not in bare["examples"]  # an array of no values, which no checkpoint holds
    assert _reservoir.drawn(bare, jax.random.key(0), few)[0].keys() == few.keys()
    more = {name: jnp.concatenate([x, x]) for name, x in batches[0].items()}
    twice = _reservoir.drawn(some, jax.random.key(0), more)[0]["label"].tolist()
    assert sorted(twice) == sorted([*range(8, 16)] * 2)
    first, nothing = _reservoir.drawn(blank, jax.random.key(0), batches[1])
    assert first["label"].tolist() == [*range(8, 16)] and not np.asarray(nothing).any()


def test_der_with_a_reservoir_by_hand():
    """The second step's loss: CE + alpha * the mean square to the kept outputs + beta * CE of the kept labels.

    As many examples are held as a batch has, so that both draws are of all of them.
    """
    options = {"alpha": 0.7, "beta": 0.4, "reservoir": 8}
    stage = tiny_stage("vit_cls", method="der", options=options, **{**FIELDS, "lr": 0.05})
    (start, _), (first, second), port = backbone(stage), batches(stage, 2), stage.spec.port
    step = jax.jit(make_train_step(stage.spec))
    state, metrics = step(stage.enter(*backbone(stage), 0), first)

    def outputs(params, batch):
        return np.asarray(port.apply(params, {}, batch)[0], np.float64)

    def ce(logits, batch):
        return float(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean())

    before, now = outputs(start, first), outputs(state.params, first)
    assert float(metrics["loss"]) == pytest.approx(ce(before, first), rel=1e-5)  # nothing is kept yet
    np.testing.assert_allclose(state.extra["memory"]["outputs"], before, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(state.extra["memory"]["examples"]["label"], first["label"])
    wanted = ce(outputs(state.params, second), second) + 0.7 * np.square(now - before).mean() + 0.4 * ce(now, first)
    _, metrics = step(state, second)
    assert np.square(now - before).mean() > 1e-4 and float(metrics["loss"]) == pytest.approx(wanted, rel=1e-5)


def test_a_run_goes_on_with_the_reservoir_under_its_head(tmp_path):
    fields = {"method": "der", "options": {"reservoir": 12}, "steps": 2}
    jaxfer.run(tiny_config("resnet_basic", **fields), tmp_path / "first", quiet=True)
    first = open_run(tmp_path / "first").state.extra["memory"]
    assert int(first["seen"]) == 16
    result = jaxfer.run(
        tiny_config("resnet_basic", init="sibling:first", head="keep", **fields), tmp_path / "second", quiet=True
    )
    assert len(result["lineage"]["former"]["sha256"]) == 64
    second = open_run(tmp_path / "second").state.extra["memory"]
    assert int(second["seen"]) == 32
    assert any((np.asarray(row) == np.asarray(first["outputs"])).all(1).any() for row in second["outputs"])
    other = tiny_config("resnet_basic", init="sibling:first", head="reset", **fields)
    with pytest.raises(InputError, match="'der' goes on with examples that its source kept, found other classes or"):
        jaxfer.run(other, tmp_path / "third", quiet=True)
    turned = tiny_config("resnet_basic", init="sibling:first", head="keep", differs=("mean",), **fields)
    turned.model.mean = (0.2,)
    with pytest.raises(InputError, match="found other preparation of examples"):
        jaxfer.run(turned, tmp_path / "third", quiet=True)
    for name, value, message in (
        ("adds", ("mixup",), "der with a reservoir keeps examples as they are; remove mixup"),
        ("task", dict(name="classification", loss="ldam"), "the task's loss also reads margin"),
        ("adds", ("schedule_free",), "'schedule_free' has the option 'beta' as 'der' has; choose one"),
    ):
        with pytest.raises(InputError, match=message):
            jaxfer.run(tiny_config("resnet_basic", **fields, **{name: value}), tmp_path / str(value), quiet=True)
    for options in ({"reservoir": 0}, {"reservoir": 9, "apart": True}, {"reservoir": 9, "memories": ("a",)}):
        with pytest.raises(InputError, match="options.reservoir: expected at least 1, without memories and apart"):
            METHODS.make("der", None, **options)


def test_projection():
    rng = np.random.default_rng(0)
    new, other = ({"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4)} for _ in range(2))
    g, m = (np.concatenate([x["a"].ravel(), x["b"]]) for x in (new, other))
    negative = {path: -leaf for path, leaf in other.items()}
    along, against = (other, negative) if g @ m > 0 else (negative, other)
    found = projected(new, against)
    wanted = g - (g @ m) / (m @ m) * m
    np.testing.assert_allclose(np.concatenate([found["a"].ravel(), found["b"]]), wanted, rtol=1e-5, atol=1e-6)
    for memory in (along, {path: 0 * leaf for path, leaf in other.items()}):
        jax.tree.map(lambda leaf, same: np.testing.assert_allclose(same, leaf, rtol=1e-6), new, projected(new, memory))


@pytest.mark.parametrize(
    ("slices", "opposed", "memories"),
    [
        pytest.param(1, True, ("memory",), marks=pytest.mark.rest),
        (2, True, ("memory",)),
        (1, False, ("memory",)),
        (1, True, ("memory", "older")),
    ],
)
def test_agem_step_by_hand(slices, opposed, memories):
    """At opposed labels of the same images the gradients point against each other; at equal ones they don't."""
    stage = tiny_stage("vit_cls", method="agem", options={"memories": memories}, accumulate=slices, **FIELDS)
    (params, model_state), (batch,), port = backbone(stage), batches(stage, 1), stage.spec.port
    own = {name: params["head"]["out"][name] for name in ("kernel", "bias")}
    params["head"]["out"] |= dict.fromkeys(memories, own)
    label = (batch["label"] + 1) % 3 if opposed else batch["label"]
    batch |= {name: {"image": batch["image"], "label": label} for name in memories}
    state = stage.enter(params, model_state, 0)

    def loss(params, label, name):
        layer = params["head"]["out"][name] if name else params["head"]["out"]
        seen = port.forward(params, model_state, batch, taps=(FEATURES,)).taps[FEATURES]
        logits = seen @ layer["kernel"] + layer["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    gradient = jax.jit(jax.grad(loss), static_argnums=2)
    new = flatten(gradient(params, batch["label"], ""))
    earlier = [flatten(gradient(params, label, name)) for name in memories]
    memory = {path: sum(each[path] for each in earlier) for path in new}
    product = sum(float((new[path] * memory[path]).sum()) for path in new)
    size = sum(float(np.square(leaf).sum()) for leaf in memory.values())
    assert product < -1e-3 if opposed else product > 1e-3
    after, metrics = jax.jit(make_train_step(stage.spec))(state, batch)
    for path, leaf in flatten(params).items():
        step = new[path] - min(product, 0) / size * memory[path]
        np.testing.assert_allclose(flatten(after.params)[path], leaf - 0.5 * step, rtol=0, atol=2e-6, err_msg=path)
    assert float(metrics["loss"]) == pytest.approx(float(loss(params, batch["label"], "")), rel=1e-5)

"""DER++ and A-GEM: what they add to, or take from, a step with examples of an earlier task, by hand."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from jaxfer.errors import InputError
from jaxfer.methods.agem import projected
from jaxfer.models.port import FEATURES, Training
from jaxfer.registry import METHODS
from jaxfer.rules import flatten
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_stage, train

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
    [(1, True, ("memory",)), (2, True, ("memory",)), (1, False, ("memory",)), (1, True, ("memory", "older"))],
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

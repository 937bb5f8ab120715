"""DER++ and A-GEM: what they add to, or take from, a step with examples of an earlier task, by hand."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from jaxfer.methods.agem import projected
from jaxfer.models.port import FEATURES, Training
from jaxfer.rules import flatten
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_stage, train

FIELDS = dict(optimizer="sgd", lr=0.5, momentum=0.0, weight_decay=0.0)


@pytest.mark.parametrize("apart", [False, True])
def test_der_by_hand(apart):
    """After a step: CE + weight * CE of the memory + alpha * the mean square of outputs less those at the start."""
    options = {"alpha": 0.7, "apart": apart}
    stage = tiny_stage("resnet_basic", method="der", options=options, **{**FIELDS, "lr": 0.05})
    (start, norms), (_, batch), port = backbone(stage), batches(stage, 2), stage.spec.port
    state, _ = train(stage, 1)
    training = Training(key=jax.random.key(0), live=stage.spec.live, eval_norms=stage.spec.eval_norms)
    names = sorted(batch.keys() & {"memory", "dark"})  # as the config has them
    dark = "dark" if apart else "memory"
    together = {"image": np.concatenate([batch["image"], *(batch[name]["image"] for name in names)])}

    @jax.jit
    def both(params, model_state):
        now = port.forward(params, model_state, together, training=training, taps=(FEATURES,))
        old = port.forward(start, norms, batch[dark], taps=(FEATURES,))
        return now.taps[FEATURES], old.taps[FEATURES]

    now, old = (np.asarray(x, np.float64) for x in both(state.params, state.model_state))
    head, before = state.params["head"]["out"], start["head"]["out"]["memory"]
    outputs = {
        name: now[8 + 8 * i :][:8] @ head["memory"]["kernel"] + head["memory"]["bias"] for i, name in enumerate(names)
    }
    memory = outputs["memory"]
    dark = np.square(outputs[dark] - (old @ before["kernel"] + before["bias"])).mean()
    logits = now[:8] @ head["kernel"] + head["bias"]
    losses = [
        float(optax.softmax_cross_entropy_with_integer_labels(x, y).mean())
        for x, y in ((logits, batch["label"]), (memory, batch["memory"]["label"]))
    ]
    assert dark > 1e-3
    assert train(stage, 2)[1][1] == pytest.approx(sum(losses) + 0.7 * dark, rel=1e-5)


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


@pytest.mark.parametrize(("slices", "opposed"), [(1, True), (2, True), (1, False)])
def test_agem_step_by_hand(slices, opposed):
    """At opposed labels of the same images the gradients point against each other; at equal ones they don't."""
    stage = tiny_stage("vit_cls", method="agem", accumulate=slices, **FIELDS)
    (params, model_state), (batch,), port = backbone(stage), batches(stage, 1), stage.spec.port
    params["head"]["out"]["memory"] = {name: params["head"]["out"][name] for name in ("kernel", "bias")}
    label = (batch["label"] + 1) % 3 if opposed else batch["label"]
    batch = {**batch, "memory": {"image": batch["image"], "label": label}}
    state = stage.enter(params, model_state, 0)

    def loss(params, label, own):
        layer = params["head"]["out"] if own else params["head"]["out"]["memory"]
        seen = port.forward(params, model_state, batch, taps=(FEATURES,)).taps[FEATURES]
        logits = seen @ layer["kernel"] + layer["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    gradient = jax.jit(jax.grad(loss), static_argnums=2)
    new, memory = flatten(gradient(params, batch["label"], True)), flatten(gradient(params, label, False))
    product = sum(float((new[path] * memory[path]).sum()) for path in new)
    size = sum(float(np.square(leaf).sum()) for leaf in memory.values())
    assert product < -1e-3 if opposed else product > 1e-3
    after, metrics = jax.jit(make_train_step(stage.spec))(state, batch)
    for path, leaf in flatten(params).items():
        step = new[path] - min(product, 0) / size * memory[path]
        np.testing.assert_allclose(flatten(after.params)[path], leaf - 0.5 * step, rtol=0, atol=2e-6, err_msg=path)
    assert float(metrics["loss"]) == pytest.approx(float(loss(params, batch["label"], True)), rel=1e-5)

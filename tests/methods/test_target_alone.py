"""Methods whose steps see the target alone: the network's pass and statistics are of the target, nothing else."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import optax
import pytest

from jaxfer.conformance.training import entered
from jaxfer.errors import InputError
from jaxfer.methods import adabn, adda, shot
from jaxfer.models.port import FEATURES, Training
from jaxfer.rules import flatten
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_stage, train


def equal(tree, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_adabn_by_default_has_the_statistics_of_all_that_it_read():
    """After three batches the first norm's are the mean and unbiased variance of its inputs over all three."""
    stage = tiny_stage("resnet_basic", method="adabn", weight_decay=0.3)
    state, feed = entered(stage), batches(stage, 3)
    step, before = jax.jit(make_train_step(stage.spec)), entered(stage)
    for batch in feed:
        state, metrics = step(state, batch)
    assert equal(state.params, before.params) and float(metrics["loss"]) == 0 and "accuracy" not in metrics
    read = []

    def watch(next_fun, args, kwargs, context):
        if context.module.path == ("stem", "norm"):
            read.append(np.asarray(args[0], np.float64).reshape(-1, 6))
        return next_fun(*args, **kwargs)

    for batch in feed:
        stage.spec.port.forward(before.params, before.model_state, batch["target"], intercept=watch)
    maps = np.concatenate(read)
    found = state.model_state["batch_stats"]["stem"]["norm"]
    np.testing.assert_allclose(found["mean"], maps.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["var"], maps.var(0, ddof=1), rtol=1e-4)
    # Nothing is left of the source's: from others, the same.
    other = jax.tree.map(lambda x: x + 0.5, before.model_state)
    again = entered(stage).replace(model_state=other)
    for batch in feed:
        again, _ = step(again, batch)
    for path, leaf in flatten(again.model_state).items():
        np.testing.assert_allclose(leaf, flatten(state.model_state)[path], rtol=1e-4, atol=1e-4, err_msg=path)


def test_moments_of_batches_are_those_of_all():
    rng, sizes = np.random.default_rng(0), {"norm": (0.25, 3)}
    rows = rng.normal(2.0, 3.0, size=(4, 5, 3, 2))  # batches, examples, positions, channels
    kept = {"norm/mean": np.full(2, 9.0), "norm/var": np.full(2, 7.0)}
    with jax.enable_x64(True):
        for step, batch in enumerate(rows.reshape(4, 15, 2)):
            new = {"norm/mean": batch.mean(0), "norm/var": batch.var(0, ddof=1)}
            after = {name: old + 0.25 * (new[name] - old) for name, old in kept.items()}
            kept = adabn.over_all(kept, after, step, 5, sizes)
        assert equal(adabn.over_all(kept, kept, 7, 5, sizes), kept)
    np.testing.assert_allclose(kept["norm/mean"], rows.reshape(-1, 2).mean(0), rtol=1e-12)
    np.testing.assert_allclose(kept["norm/var"], rows.reshape(-1, 2).var(0, ddof=1), rtol=1e-12)


def test_a_norm_that_keeps_its_statistics_keeps_them_under_adabn():
    stage = tiny_stage("resnet_basic", method="adabn", eval_norms=("stem/norm",))
    state, before = entered(stage), entered(stage)
    for batch in batches(stage, 2):
        state, _ = jax.jit(make_train_step(stage.spec))(state, batch)
    found, old = state.model_state["batch_stats"], before.model_state["batch_stats"]
    assert equal(found["stem"], old["stem"]) and not equal(found["block_0"], old["block_0"])


def test_adabn_at_the_momentum_of_its_norms():
    """Of a step: 0.9 * the source's + 0.1 * the batch's at every norm, as PyTorch counts; no parameter moves."""
    stage = tiny_stage("resnet_basic", method="adabn", options={"statistics": "running"}, weight_decay=0.3)
    before, (batch,) = entered(stage), batches(stage, 1)
    port = stage.spec.port
    settings = Training(key=jax.random.key(0), live=frozenset(), eval_norms=frozenset())
    target = port.forward(before.params, before.model_state, batch["target"], training=settings)
    state, metrics = jax.jit(make_train_step(stage.spec))(before, batch)
    assert equal(state.params, before.params) and not stage.spec.trainable and stage.spec.eval_norms == frozenset()
    assert float(metrics["loss"]) == 0 and "accuracy" not in metrics
    old, found, wanted = (
        flatten(x["batch_stats"]) for x in (before.model_state, state.model_state, target.model_state)
    )
    for path, x in found.items():
        np.testing.assert_allclose(x, wanted[path], rtol=1e-5, atol=1e-6, err_msg=path)
        assert not np.allclose(x, old[path]), path
    labelled = {**batch, "image": batch["image"] + 1, "label": (batch["label"] + 1) % 3}
    assert equal(jax.jit(make_train_step(stage.spec))(before, labelled)[0].model_state, state.model_state)


def test_adabn_refuses_other_statistics_and_slices():
    with pytest.raises(InputError, match="options.statistics: expected exact or running, found 'batch'"):
        tiny_stage("resnet_basic", method="adabn", options={"statistics": "batch"})
    with pytest.raises(
        InputError, match="options.examples: expected training, found 'all'; omit it for those of the target"
    ):
        tiny_stage("resnet_basic", method="adabn", options={"examples": "all"})
    with pytest.raises(InputError, match="config.accumulate: the loss of method 'adabn' is of the batch as a whole"):
        tiny_stage("resnet_basic", method="adabn", accumulate=2)
    tiny_stage("resnet_basic", method="adabn", options={"statistics": "running"}, accumulate=2)


def test_adabn_is_refused_without_running_statistics():
    with pytest.raises(InputError, match="adabn: the model keeps no running statistics"):
        tiny_stage("vit_cls", method="adabn")


def test_adda_by_hand():
    """Each side's gradient is that of its own loss in eq. 9; the head stays, and the source's network is not moved."""
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(5, 4)), rng.normal(size=(3, 4))
    first = {"kernel": rng.normal(size=(4, 6)), "bias": rng.normal(size=6)}
    stack = {"layer_0": first, "layer_1": {"kernel": rng.normal(size=(6, 1)), "bias": rng.normal(size=1)}}

    def chance(stack, x, np=np):
        x = np.maximum(x @ stack["layer_0"]["kernel"] + stack["layer_0"]["bias"], 0)
        return 1 / (1 + np.exp(-(x @ stack["layer_1"]["kernel"] + stack["layer_1"]["bias"])[:, 0]))

    told = -np.log(chance(stack, source)).mean() - np.log(1 - chance(stack, target)).mean()
    fooled = -np.log(chance(stack, target)).mean()
    with jax.enable_x64(True):
        jnp = jax.numpy
        found = adda.adversarial(stack, source, target)
        assert float(found[0]) == pytest.approx(told, abs=1e-9) and float(found[1]) == pytest.approx(fooled, abs=1e-9)
        both = jax.grad(lambda s, x: sum(adda.adversarial(s, source, x)[:2]), (0, 1))(stack, target)

        def of_stack(s):
            return -jnp.log(chance(s, source, jnp)).mean() - jnp.log(1 - chance(s, target, jnp)).mean()

        wanted = jax.grad(of_stack)(stack), jax.grad(lambda x: -jnp.log(chance(stack, x, jnp)).mean())(target)
        for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_adda_starts_at_the_source_and_keeps_its_head():
    """Where the model is the source's network, and both see the same images, the discriminator sees one thing twice."""
    stage = tiny_stage("vit_cls", method="adda", options={"hidden": 5, "layers": 1}, lr=1e-2)
    state, (batch,) = entered(stage), batches(stage, 1)
    backbone = {unit: leaves for unit, leaves in state.params.items() if unit != "discriminator"}
    state = state.replace(others={"source": (backbone, state.model_state, None)})
    same = {**batch, "target": {"image": batch["image"]}}
    after, metrics = jax.jit(make_train_step(stage.spec))(state, same)
    features = stage.spec.port.forward(backbone, {}, batch, taps=(FEATURES,)).taps[FEATURES]
    told, fooled, _ = adda.adversarial(state.params["discriminator"]["head"], features, features)
    assert float(metrics["domain_loss"]) == pytest.approx(float(told), rel=1e-5)
    assert float(metrics["target_loss"]) == pytest.approx(float(fooled), rel=1e-5)
    assert equal(after.params["head"]["out"], state.params["head"]["out"])
    assert not equal(after.params["block_0"], state.params["block_0"])


def test_adda_in_turn():
    """The discriminator moves first; the model's gradient is at the discriminator that it has become."""
    options = {"hidden": 5, "layers": 1, "alternate": True}
    stage = tiny_stage("vit_cls", method="adda", options=options, optimizer="sgd", lr=0.3, momentum=0.0, weight_decay=0)
    state, (batch,), port = entered(stage), batches(stage, 1), stage.spec.port
    source = features(port, state.others["source"][0], batch)
    before = {unit: leaves for unit, leaves in state.params.items() if unit != "discriminator"}
    target = features(port, before, batch["target"])
    stack = state.params["discriminator"]["head"]
    moved = jax.tree.map(
        lambda x, g: x - 0.3 * g, stack, jax.grad(lambda s: adda.adversarial(s, source, target)[0])(stack)
    )

    def fooled(params):
        return adda.adversarial(moved, source, features(port, params, batch["target"]))[1]

    value, gradients = jax.jit(jax.value_and_grad(fooled))(before)
    after, metrics = jax.jit(make_train_step(stage.spec))(state, batch)
    told = float(adda.adversarial(stack, source, target)[0])
    assert float(metrics["domain_loss"]) == float(metrics["loss"]) == pytest.approx(told, rel=1e-5)
    assert float(metrics["target_loss"]) == pytest.approx(float(value), rel=1e-5)
    for path, leaf in flatten(moved).items():
        np.testing.assert_allclose(flatten(after.params["discriminator"]["head"])[path], leaf, rtol=1e-4, atol=1e-6)
    for path, g in flatten(gradients).items():
        wanted = flatten(before)[path] - (0 if path.startswith("head/out/") else 0.3) * g
        np.testing.assert_allclose(flatten(after.params)[path], wanted, rtol=1e-4, atol=1e-5, err_msg=path)


def features(port, params, batch):
    return port.forward(params, {}, batch, taps=(FEATURES,)).taps[FEATURES]


def test_information_by_hand():
    logits = np.random.default_rng(0).normal(size=(6, 4))
    p = softmax(logits)
    entropy = [-(x * np.log(x + 1e-5)).sum(-1) for x in (p, p.mean(0))]
    with jax.enable_x64(True):
        unsure, spread = shot.information(jax.numpy.asarray(logits))
    assert float(unsure) == pytest.approx(entropy[0].mean(), abs=1e-9)
    assert float(spread) == pytest.approx(entropy[1], abs=1e-9)


def labelled(features, chances):
    """The pseudo-labels of one whole set as the paper computes them: soft centroids, then one hard round."""
    x = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    x /= np.linalg.norm(x, axis=1, keepdims=True)

    def given(weights):
        means = weights.T @ x / (weights.sum(0)[:, None] + 1e-8)
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        cosines = x @ (means / np.maximum(lengths, 1e-12)).T
        return np.where(weights.sum(0) > 0, cosines, -np.inf).argmax(1)

    return given(np.eye(chances.shape[1])[given(chances)])


def test_pseudo_labels_are_the_papers_where_all_of_the_target_is_one_batch():
    rng = np.random.default_rng(3)
    features, chances = rng.normal(size=(40, 5)) + 0.5, softmax(3 * rng.normal(size=(40, 4)))
    nothing = {"sums": np.zeros((4, 6)), "counts": np.zeros(4)}
    with jax.enable_x64(True):
        x = shot.extended(jax.numpy.asarray(features))
        once = shot.centroids({"soft": nothing, "hard": nothing}, x, chances, 0.5)
        found = np.asarray(shot.nearest(x, once["hard"]))
        # Two halves without forgetting keep the sums of the whole.
        half = shot.centroids({"soft": nothing, "hard": nothing}, x[:20], chances[:20], 1.0)
        whole = shot.centroids(half, x[20:], chances[20:], 1.0)
        np.testing.assert_allclose(whole["soft"]["sums"], once["soft"]["sums"], rtol=1e-12)
        faded = shot.centroids(once, x, 0 * chances, 0.5)
        np.testing.assert_allclose(faded["soft"]["sums"], 0.5 * once["soft"]["sums"], rtol=1e-12)
    wanted = labelled(features, chances)
    assert found.tolist() == wanted.tolist() and (wanted != chances.argmax(1)).any()


def test_a_step_of_shot_by_hand():
    """Labels are those of the network and the centroids of the last pass, and not of the network as it is."""
    stage = tiny_stage("resnet_basic", method="shot", options={"pseudo": 0.5}, lr=0.0)
    state, (batch,), port = entered(stage), batches(stage, 1), stage.spec.port
    before = backbone(stage, 7)
    sums = np.random.default_rng(0).normal(size=(3, 13)).astype(np.float32)
    centroids = {"sums": sums, "counts": np.float32([3.0, 0.0, 2.0])}
    state = state.replace(extra={"centroids": centroids, "params": flatten(before[0]), "model_state": before[1]})
    x = np.asarray(port.forward(*before, batch["target"], taps=(FEATURES,)).taps[FEATURES], np.float64)
    x = np.concatenate([x, np.ones((8, 1))], axis=1)
    cosines = x @ (centroids["sums"] / np.linalg.norm(centroids["sums"], axis=1, keepdims=True)).T
    labels = np.where([True, False, True], cosines, -np.inf).argmax(1)  # a class without examples is none's
    settings = Training(key=jax.random.key(0), live=stage.spec.live, eval_norms=frozenset())
    own = port.forward(state.params, state.model_state, batch["target"], training=settings).outputs
    cross = optax.softmax_cross_entropy_with_integer_labels(own, labels).mean()
    unsure, spread = shot.information(own)
    after, metrics = jax.jit(make_train_step(stage.spec))(state, batch)
    assert float(metrics["loss"]) == pytest.approx(float(unsure - spread + 0.5 * cross), rel=1e-5)
    assert equal(after.extra, state.extra) and len(set(labels.tolist())) == 2


def test_a_step_of_the_running_form_by_hand():
    options = {"form": "running", "pseudo": 0.5, "memory": 0.9}
    stage = tiny_stage("vit_cls", method="shot", options=options, lr=0.0)
    state, (batch,), port = entered(stage), batches(stage, 1), stage.spec.port
    passed = port.forward(state.params, {}, batch["target"], taps=(FEATURES,))
    outputs = np.asarray(passed.outputs, np.float64)
    labels = labelled(np.asarray(passed.taps[FEATURES], np.float64), softmax(outputs))
    cross = optax.softmax_cross_entropy_with_integer_labels(passed.outputs, labels).mean()
    unsure, spread = shot.information(passed.outputs)
    assert train(stage, 1)[1][0] == pytest.approx(float(unsure - spread + 0.5 * cross), rel=1e-5)
    assert all(path.startswith("head/out/") for path in stage.spec.frozen)


def test_a_step_of_the_target_alone_reads_no_labels():
    """Without the main batch there are no scores; its outputs are not computed."""
    stage = tiny_stage("resnet_basic", method="shot", lr=1e-2)
    state, (batch,) = entered(stage), batches(stage, 1)
    step = jax.jit(make_train_step(stage.spec))
    other = {**batch, "image": batch["image"] + 1, "label": (batch["label"] + 1) % 3}
    (one, metrics), (two, others) = step(state, batch), step(state, other)
    assert equal(one.params, two.params) and equal(one.model_state, two.model_state) and equal(metrics, others)
    assert "accuracy" not in metrics


@pytest.mark.parametrize(("add", "case"), [("mixup", "resnet_basic"), ("jsd", "resnet_basic"), ("r3f", "bert_pooler")])
def test_add_ons_that_read_the_labelled_batch_are_refused(add, case):
    with pytest.raises(InputError, match=f"add-on {add} reads the labelled batch, and this method trains without it"):
        tiny_stage(case, method="shot", adds=(add,))


def test_streams_are_the_only_batch():
    """`main=False` with the method's own loss: batch statistics are of the stream."""
    stage = tiny_stage("resnet_basic", method="shot", lr=0.0)
    spec, state, (batch,) = stage.spec, entered(stage), batches(stage, 1)
    settings = Training(key=jax.random.key(0), live=spec.live, eval_norms=spec.eval_norms)
    wanted = spec.port.forward(state.params, state.model_state, batch["target"], training=settings).model_state
    found = jax.jit(make_train_step(spec))(state, batch)[0].model_state
    for path, x in flatten(found).items():
        np.testing.assert_allclose(x, flatten(wanted)[path], rtol=1e-5, atol=1e-6)
    joined = dataclasses.replace(spec, method=dataclasses.replace(spec.method, main=True))
    both = jax.jit(make_train_step(joined))(state, batch)[0].model_state
    assert not np.allclose(jax.tree.leaves(both)[0], jax.tree.leaves(found)[0])

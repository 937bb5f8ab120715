"""The traps of transfer learning, each once as it bites with the usual tools and once as jaxfer avoids it.

The traps of single modules are tested beside them: batch normalisation's momentum and constructor in
`models/test_layers.py`, Grain's in `data/test_loader.py`, `config.lr = 1` in `test_config.py`, strict restoring in
`test_checkpoint.py`.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxfer import rules
from jaxfer.config.experiment import ParallelConfig
from jaxfer.errors import RuleError
from jaxfer.method import NOTHING
from jaxfer.models.port import Training
from jaxfer.optim import Leaf, make_tx
from jaxfer.optim.schedules import schedule
from jaxfer.parallel.placement import placement
from jaxfer.registry import METHODS, MODELS
from jaxfer.rules import flatten, unflatten
from jaxfer.stages import example_batch
from jaxfer.step import make_eval_step, make_train_step, split
from jaxfer.training.programs import lowered_flops, train_program
from tests.experiments import backbone, batches, tiny_stage, train

PARAMS = {"body": jnp.array([1.0, -2.0]), "head": jnp.array([3.0])}
GRADS = {"body": jnp.array([0.5, 0.5]), "head": jnp.array([1.0])}
HPARAMS = {
    **{"lr/head": 0.1, "layer_decay": 1.0, "weight_decay": 0.5, "momentum": 0.9, "b2": 0.999},
    **{"clip": 1e9, "warmup": 0.0, "min_lr": 0.0, "total_steps": 10.0},
}


def vit_b16(method, **fields):
    return tiny_stage("vit_cls", model=dict(name="vit", image=(224, 224, 3)), method=method, **fields)


def head_tx(hparams=HPARAMS, optimizer="adamw"):
    hparams = {k: jnp.float32(v) for k, v in hparams.items()}
    zero = jnp.zeros((), jnp.int32)
    return make_tx({"head": Leaf(group="head")}, hparams, zero, optimizer=optimizer, schedule_name="constant")


def test_trap_optax_masked_alone_ascends_on_frozen_leaves():
    masked = optax.masked(optax.sgd(0.1), {"body": False, "head": True})
    updates, _ = masked.update(GRADS, masked.init(PARAMS), PARAMS)
    assert np.array_equal(updates["body"], GRADS["body"])  # the raw gradient, added: it ascends
    stage = tiny_stage("resnet_basic", method="probe")
    before = flatten(stage.enter(*backbone(stage), 0).params)
    after = flatten(train(stage, 2)[0].params)
    assert all(np.array_equal(after[path], before[path]) for path in before if path not in stage.spec.trainable)


def test_trap_set_to_zero_before_adamw_still_decays():
    zero = optax.multi_transform({"f": optax.set_to_zero(), "t": optax.identity()}, {"body": "f", "head": "t"})
    bad = optax.chain(zero, optax.adamw(0.1, weight_decay=0.5))
    updates, _ = bad.update(GRADS, bad.init(PARAMS), PARAMS)
    assert np.abs(updates["body"]).min() > 0
    stage = tiny_stage("resnet_basic", method="probe", weight_decay=0.5)
    before, after = (flatten(s.params) for s in (stage.enter(*backbone(stage), 0), train(stage, 2)[0]))
    assert np.array_equal(before["stem/conv/kernel"], after["stem/conv/kernel"])


def test_trap_set_to_zero_after_adam_keeps_the_full_optimizer_state():
    zero = optax.multi_transform({"f": optax.set_to_zero(), "t": optax.identity()}, {"body": "f", "head": "t"})
    full = optax.chain(optax.adam(0.1), zero).init(PARAMS)
    assert sum(leaf.size for leaf in jax.tree.leaves(full)) >= 2 * 3  # moments of the frozen leaf too
    ours = head_tx().init({"head": PARAMS["head"]})
    assert sum(leaf.size for leaf in jax.tree.leaves(ours)) == 2 * 1 + 1  # two moments and a count


def test_trap_clipping_outside_the_partition_counts_frozen_gradients():
    assert float(optax.tree.norm(GRADS)) > float(optax.tree.norm({"head": GRADS["head"]}))
    # Clip 1.0: the head's gradient has norm 1, so it must pass unscaled; with the body's it would shrink to 0.816.
    hparams = {**HPARAMS, "clip": 1.0, "weight_decay": 0.0, "momentum": 0.0}
    tx = head_tx(hparams, "sgd")
    trainable = {"head": PARAMS["head"]}
    updates, _ = tx.update({"head": GRADS["head"]}, tx.init(trainable), trainable)
    np.testing.assert_allclose(updates["head"], [-0.1], rtol=1e-6)


def test_trap_logging_the_norm_of_all_gradients_brings_the_frozen_backward_back():
    stage = vit_b16("probe", clip=1.0, weight_decay=0.1)
    state, batch = stage.blank(0), example_batch(stage.spec.port, stage.spec.task, 8)
    forward = lowered_flops(make_eval_step(stage.spec), state.params, state.model_state, state.extra, batch)

    def loss(params, batch):
        outputs, _ = stage.spec.port.apply(params, {}, batch)
        return stage.spec.task.loss(outputs, batch, {"label_smoothing": 0.0}).value()

    def naive(params, batch):
        grads = flatten(jax.grad(loss)(params, batch))
        return grads["head/out/kernel"], optax.tree.norm(grads)

    assert lowered_flops(naive, state.params, batch) > 2.5 * forward
    assert lowered_flops(make_train_step(stage.spec), state, batch) < 1.1 * forward


def test_trap_a_multiplier_before_adam_has_no_effect():
    grads = {"head": jnp.array([0.5])}
    scaled = optax.chain(optax.scale(0.01), optax.adam(0.1))
    plain = optax.adam(0.1)
    trainable = {"head": PARAMS["head"]}
    updates = [tx.update(grads, tx.init(trainable), trainable)[0]["head"] for tx in (scaled, plain)]
    np.testing.assert_allclose(*updates, rtol=1e-4)
    hparams = {k: jnp.float32(v) for k, v in {**HPARAMS, "weight_decay": 0.0}.items()}
    ours = []
    for scale in (0.01, 1.0):
        leaf, zero = Leaf(group="head", lr_scale=scale), jnp.zeros((), jnp.int32)
        tx = make_tx({"head": leaf}, hparams, zero, optimizer="adamw", schedule_name="constant")
        ours.append(float(tx.update(grads, tx.init(trainable), trainable)[0]["head"][0]))
    assert ours[0] == pytest.approx(0.01 * ours[1], rel=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"freeze": ("blok_0/.*",)},
        {"lr_rules": (("blok_0/.*", 0.1),)},
        {"decay_rules": (("blok_0/.*", 0.0),)},
        {"method": "lora", "options": {"targets": ("blok_0/.*",)}},
    ],
    ids=["freeze", "lr", "decay", "lora"],
)
def test_trap_a_rule_that_matches_nothing_is_an_error(fields):
    with pytest.raises(RuleError, match=r"blok_0/\.\*' matches no parameter; nearest: 'block_0/"):
        tiny_stage("resnet_basic", **fields)


def test_trap_frozen_batch_norm_in_train_mode_drifts():
    stage = tiny_stage("resnet_basic", method="probe", lr=0.0)
    params, model_state = backbone(stage)
    (batch,) = batches(stage, 1)
    naive = model_state
    for i in range(20):
        everything = Training(key=jax.random.key(i), live=frozenset(stage.spec.port.units), eval_norms=frozenset())
        _, naive = stage.spec.port.apply(params, naive, batch, training=everything)
    before, drifted = (stage.spec.port.apply(params, stats, batch)[0] for stats in (model_state, naive))
    assert float(jnp.abs(before - drifted).max()) > 0.05  # same parameters, other logits
    state, _ = train(stage, 20)
    for ours, start in zip(jax.tree.leaves(state.model_state), jax.tree.leaves(model_state), strict=True):
        assert np.array_equal(ours, start)


def test_trap_batch_norm_policy_follows_the_rules():
    stage = tiny_stage("resnet_basic", method="full", freeze=("stem/.*", "block_0/.*"), eval_norms=("block_1/norm_1",))
    assert stage.spec.eval_norms == {"stem/norm", "block_0/norm_1", "block_0/norm_2", "block_1/norm_1"}
    state, _ = train(stage, 2)
    before, after = flatten(backbone(stage)[1]["batch_stats"]), flatten(state.model_state["batch_stats"])
    moved = {path.rsplit("/", 1)[0] for path in after if not np.array_equal(after[path], before[path])}
    assert moved == {path.rsplit("/", 1)[0] for path in after} - stage.spec.eval_norms


def test_trap_dropout_in_frozen_units_is_off():
    options = dict(patch=3, width=12, layers=2, heads=3, mlp_width=20, image=(6, 9, 3), dropout=0.5)
    port = MODELS.make("vit", outputs=3, **options)
    batch = {"image": jnp.ones((4, 6, 9, 3))}
    params, _ = port.init(jax.random.key(0), batch)

    def hidden(live, seed):
        training = Training(key=jax.random.key(seed), live=frozenset(live), eval_norms=frozenset())
        return port.apply(params, {}, batch, training=training, end="block_1")[0]

    still = [hidden({"head"}, seed) for seed in (1, 2)]
    assert np.array_equal(*still)
    assert np.array_equal(still[0], port.apply(params, {}, batch, end="block_1")[0])
    assert not np.array_equal(hidden({"block_1"}, 1), hidden({"block_1"}, 2))
    # An adapter makes its unit live.
    method = METHODS.make("lora", port, targets=("block_1/.*",))
    adapted, _ = method.init(params, jax.random.key(0), NOTHING)
    assert {port.unit(path) for path in flatten(adapted["lora"])} == {"block_1"}


def test_trap_a_donated_anchor_is_a_copy():
    stage = tiny_stage("resnet_basic", method="l2sp")
    params, model_state = backbone(stage)
    state = stage.enter(params, model_state, 0)
    shared = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state.extra)}
    assert not shared & {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state.params)}
    assert not shared & {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)}
    after, _ = train(stage, 3, devices=4)  # with a shared buffer: an error on one device, a hang on four
    for path, anchor in after.extra.items():
        assert np.array_equal(anchor, flatten(params)[path])
        assert not np.array_equal(anchor, flatten(after.params)[path])


def test_trap_memory_that_is_taken_over_is_the_devices_not_the_hosts():
    """`device_put` of an aligned array is a view of it: donating that must leave the array's numbers alone."""
    stage = tiny_stage("resnet_basic", method="l2sp")
    params, model_state = jax.tree.map(np.array, backbone(stage))
    placed = jax.tree.map(jax.device_put, params)
    state = stage.enter(placed, model_state, 0, taken=[*flatten(params)])
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(placed))
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.params, state.opt_state, state.extra))]
    assert len(buffers) == len({*buffers})
    kept = jax.tree.map(np.copy, params)
    program, batch = jax.jit(make_train_step(stage.spec), donate_argnums=0), batches(stage, 1)[0]
    after, _ = program(state, batch)
    for path, leaf in flatten(params).items():
        assert np.array_equal(leaf, flatten(kept)[path]) and not np.array_equal(leaf, flatten(after.params)[path])


def test_trap_a_static_optimizer_in_the_state_compiles_once_per_member():
    stage = tiny_stage("resnet_basic", method="probe")
    where, shapes = placement(ParallelConfig(devices=1)), example_batch(stage.spec.port, stage.spec.task, 8)
    programs = set()
    for rate in (1e-3, 1e-2, 1e-1):
        member = dataclasses.replace(stage, hparams={**stage.hparams, "lr/head": rate})
        programs.add(id(train_program(member.spec, member.enter(*backbone(stage), 0), shapes, where)[0]))
    assert len(programs) == 1
    assert all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(stage.enter(*backbone(stage), 0)))


def test_trap_lora_as_a_weight_view_pays_for_frozen_kernels():
    """Step FLOPs of ViT-B/16, adapters in activation space: at most 2.1 x forward; as W + AB far more."""
    stage = vit_b16("lora")
    state, batch = stage.blank(0), example_batch(stage.spec.port, stage.spec.task, 8)
    port, spec = stage.spec.port, stage.spec
    backbone_shapes = spec.method.view(state.params, {})
    forward = lowered_flops(lambda p, b: port.apply(p, {}, b)[0], backbone_shapes, batch)
    step = lowered_flops(make_train_step(spec), state, batch)
    assert step <= 2.1 * forward

    def view_step(params, batch):
        trainable, frozen = split(params, spec.trainable)

        def loss(trainable):
            merged = spec.method.merge(unflatten({**frozen, **trainable}), {})
            return spec.task.loss(port.apply(merged, {}, batch)[0], batch, {"label_smoothing": 0.0}).value()

        return jax.grad(loss)(trainable)

    assert lowered_flops(view_step, state.params, batch) > 1.3 * step


@pytest.mark.parametrize("case", ["vit_cls", "resnet_basic"])
def test_trap_lora_takes_each_kernel_by_its_input_axes(case):
    """Attention's output kernels sum over two axes, convolutions over three: the delta must match each."""
    stage = tiny_stage(case, method="lora", options={"rank": 2})
    params, _ = backbone(stage)
    full, _ = stage.spec.method.init(params, jax.random.key(1), NOTHING)
    kernels, low = flatten(params), flatten(full["lora"])
    for site in {path.rsplit("/", 1)[0] for path in low}:
        kernel, a, b = kernels[f"{site}/kernel"], low[f"{site}/a"], low[f"{site}/b"]
        inputs = 3 if kernel.ndim == 4 else 2 if site.endswith("attn/out") else 1
        assert a.shape == (*kernel.shape[:inputs], 2) and b.shape == (2, *kernel.shape[inputs:])


def test_trap_default_mesh_axes_are_explicit():
    where = placement(ParallelConfig(devices=4))
    assert set(where.mesh.axis_types) == {jax.sharding.AxisType.Auto}
    explicit = Mesh(np.asarray(jax.devices()), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))

    def loss(x, labels):
        return optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()

    batch = (jnp.ones((8, 3)), jnp.zeros(8, jnp.int32))
    sharded = jax.device_put(batch, NamedSharding(where.mesh, PartitionSpec("data")))
    assert float(jax.jit(loss)(*sharded)) == pytest.approx(np.log(3), rel=1e-6)
    assert explicit.axis_types != where.mesh.axis_types


def test_trap_attention_key_bias_has_zero_gradient():
    """So Adam turns its rounding into steps of size lr, and modes are compared under SGD or by their logits."""
    stage = tiny_stage("vit_cls", method="full")
    params, _ = backbone(stage)
    (batch,) = batches(stage, 1)

    def loss(params):
        outputs, _ = stage.spec.port.apply(params, {}, batch)
        return stage.spec.task.loss(outputs, batch, {"label_smoothing": 0.0}).value()

    grads = flatten(jax.jit(jax.grad(loss))(params))
    assert float(jnp.abs(grads["block_0/attn/key/bias"]).max()) < 1e-6
    assert float(jnp.abs(grads["block_0/attn/query/bias"]).max()) > 1e-5
    state, _ = train(stage, 1)
    moved = np.abs(flatten(state.params)["block_0/attn/key/bias"] - flatten(params)["block_0/attn/key/bias"]).max()
    assert moved > 1e-5  # as far as any other leaf, for a gradient that is zero


def test_trap_optax_warmup_cosine_refuses_a_traced_peak():
    with pytest.raises(jax.errors.TracerBoolConversionError):
        jax.jit(lambda peak: optax.warmup_cosine_decay_schedule(0.0, peak, 2, 20)(3))(1e-3)

    @functools.partial(jax.jit, static_argnums=0)
    def factor(name, step, warmup, total):
        return schedule(name, {"warmup": warmup, "min_lr": 0.0, "total_steps": total}, step)

    found = [float(factor("cosine", jnp.int32(step), 2.0, 6.0)) for step in range(7)]
    np.testing.assert_allclose(found, [0.5, 1, 1, 0.853553, 0.5, 0.146447, 0], atol=1e-6)


def test_trap_a_live_view_of_a_donated_leaf():
    """`np.asarray` of a CPU array is a view: donating it under the view must leave the view's numbers alone."""
    stage = tiny_stage("resnet_basic", method="full")
    where, shapes = placement(ParallelConfig(devices=1)), example_batch(stage.spec.port, stage.spec.task, 8)
    state = jax.device_put(stage.enter(*backbone(stage), 0), where.replicated)
    program, _ = train_program(stage.spec, state, shapes, where)
    view = np.asarray(flatten(state.params)["head/out/kernel"])
    before = view.copy()
    program.call(state, next(where.feed(batches(stage, 1), train=True)))
    assert np.array_equal(view, before)


class WithBatchNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(x)


def test_trap_batch_norm_mode_in_the_constructor_cannot_be_intercepted():
    x = jnp.arange(6.0).reshape(3, 2)

    def evaluation(next_fun, args, kwargs, context):
        return next_fun(*args, **({**kwargs, "use_running_average": True} if args else kwargs))

    module = WithBatchNorm()
    variables = module.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="use_running_average"), nn.intercept_methods(_on_batch_norm(evaluation)):
        module.apply(variables, x, mutable=["batch_stats"])


def _on_batch_norm(interceptor):
    def intercept(next_fun, args, kwargs, context):
        if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
            return interceptor(next_fun, args, kwargs, context)
        return next_fun(*args, **kwargs)

    return intercept


def test_freezing_the_first_units_pays_only_for_the_rest():
    """Backward FLOPs of the trained suffix alone: each frozen unit takes its own share out of the step."""
    steps, forward = [], 0.0
    for k in (0, 1, 2):
        stage = tiny_stage("vit_cls", method="full", freeze_units=k)
        state, batch = stage.blank(0), example_batch(stage.spec.port, stage.spec.task, 8)
        steps.append(lowered_flops(make_train_step(stage.spec), state, batch))
        forward = lowered_flops(make_eval_step(stage.spec), state.params, {}, {}, batch)
        units = {stage.spec.port.unit(path) for path in stage.spec.trainable}
        assert units == set(stage.spec.port.units[k:])
    port = stage.spec.port
    rest = {"image": jax.ShapeDtypeStruct((8, 7, 12), "float32")}

    def suffix(params, batch):
        return port.apply(params, {}, batch, begin="block_1")[0]

    suffix_forward = lowered_flops(suffix, state.params, rest)
    assert steps[0] > steps[1] > steps[2]
    # forward of everything + backward (at most 2 x forward) of the suffix + the optimizer's few operations a value
    assert steps[2] <= forward + 2 * suffix_forward + 40 * sum(
        leaf.size for path, leaf in flatten(state.params).items() if path in stage.spec.trainable
    )


@pytest.mark.parametrize("model", [dict(name="resnet", image=(224, 224, 3)), dict(name="vit", image=(224, 224, 3))])
def test_head_only_training_costs_a_forward_and_the_head(model):
    """With clipping, weight decay and norm logging on: at most 1.05 x (forward + head) FLOPs, 2 x trainable bytes."""
    stage = tiny_stage("vit_cls", model=model, method="probe", clip=1.0, weight_decay=0.1, batch_size=8)
    state, batch = stage.blank(0), example_batch(stage.spec.port, stage.spec.task, 8)
    forward = lowered_flops(make_eval_step(stage.spec), state.params, state.model_state, state.extra, batch)
    trainable = sum(flatten(state.params)[path].size for path in stage.spec.trainable)
    head = 2 * 8 * trainable  # one product: the kernel's gradient
    assert lowered_flops(make_train_step(stage.spec), state, batch) <= 1.05 * (forward + head)
    optimizer = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.opt_state))
    assert optimizer <= 2 * 4 * trainable + 1024


def test_rules_claim_every_leaf_of_every_model():
    for case in ("resnet_basic", "vit_cls"):
        leaves = tiny_stage(case).leaves()
        with pytest.raises(RuleError, match="claimed by no"):
            rules.resolve((("head/.*", 1),), leaves)

"""VeRA, LoHa, LoKr and OFT: merged kernels by hand in float64, what is shared, and how many parameters there are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.methods import oft
from jaxfer.registry import METHODS
from jaxfer.rules import flatten, unflatten
from tests.experiments import backbone, tiny_stage
from tests.methods.added import added

OPTIONS = {"vera": {"rank": 5}, "loha": {"rank": 2}, "lokr": {"rank": 2}, "oft": {"block": 4}}


def merged(method, case, sites, **options):
    """{site: (kernel before, kernel after, {name: leaf of the method}, extra)}, nothing of the method at its start."""
    stage = tiny_stage(case, method=method, options=OPTIONS[method] | options)
    state, rng = stage.enter(*backbone(stage), 0), np.random.default_rng(0)
    leaves = flatten(state.params)
    for path in [path for path in leaves if path.startswith(f"{method}/")]:
        leaves[path] += jnp.asarray(0.3 * rng.normal(size=leaves[path].shape), jnp.float32)
    after = flatten(stage.spec.method.merge(unflatten(leaves), state.extra))
    changed = {path for path in after if not np.array_equal(after[path], leaves[path])}
    assert {f"{site}/kernel" for site in sites} <= changed
    assert all(path.startswith("block_") and path.endswith("/kernel") for path in changed)
    for site in sites:
        own = {path.rsplit("/", 1)[1]: np.float64(leaf) for path, leaf in leaves.items() if f"{method}/{site}/" in path}
        yield np.float64(leaves[f"{site}/kernel"]), after[f"{site}/kernel"], own, state.extra


def test_vera():
    """Layers of other sizes read the first rows of A and the first columns of B, of the largest: 20 and 20."""
    for before, after, own, extra in merged("vera", "vit_cls", ("block_0/attn/out", "block_1/mlp/fc2")):
        fan = before.size // 12
        a, b = np.float64(extra["a"])[:fan], np.float64(extra["b"])[:, :12]
        wanted = before.reshape(fan, 12) + (a * own["d"]) @ b * own["b"]
        np.testing.assert_allclose(after.reshape(fan, 12), wanted, rtol=0, atol=1e-5)
    assert extra["a"].shape == (20, 5) and extra["b"].shape == (5, 20)
    assert np.abs(extra["a"]).max() <= (6 / 20) ** 0.5 and np.abs(extra["b"]).max() <= (6 / 5) ** 0.5


def test_loha():
    for before, after, own, _ in merged("loha", "resnet_basic", ("block_1/conv_1", "block_2/conv_2")):
        first, second = (np.tensordot(own[f"a_{i}"], own[f"b_{i}"], 1) for i in (1, 2))
        np.testing.assert_allclose(after, before + 4.0 * first * second, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["vit_cls", "resnet_basic"])
def test_loha_as_peft_starts_it(case):
    """hada_w2_b, our A_2, is zero; the others are uniform up to 1 / sqrt(what torch takes for their fan-in)."""
    stage = tiny_stage(case, method="loha", options={"rank": 6, "start": "peft"})
    params, model_state = backbone(stage)
    state = stage.enter(params, model_state, 0)
    leaves, apart = {p: np.asarray(x) for p, x in flatten(state.params).items() if p.startswith("loha/")}, []
    for path, leaf in leaves.items():
        own = path.rsplit("/", 1)[1]
        bound = (leaf.size / 6 if own[0] == "a" else 6) ** -0.5
        assert leaf.any() == (own != "a_2") and np.abs(leaf).max() <= bound
        apart += [*(leaf / bound).ravel()] if own != "a_2" else []
    assert np.std(apart) == pytest.approx(3**-0.5, rel=0.05) and abs(np.mean(apart)) < 0.05
    site = next(iter(leaves)).rsplit("/", 1)[0]
    assert not np.array_equal(leaves[f"{site}/b_1"], leaves[f"{site}/b_2"])
    for path, leaf in flatten(stage.spec.method.merge(state.params, state.extra)).items():
        np.testing.assert_array_equal(leaf, flatten(params)[path])


def test_loha_as_lycoris_starts_it():
    """hada_w2_a, our B_2, is zero; A is normal of standard deviation 1, B_1 of 0.1."""
    stage, leaves = tiny_stage("vit_cls", method="loha", options={"rank": 6, "start": "lycoris"}), {}
    state = stage.enter(*backbone(stage), 0)
    for path, leaf in flatten(state.params).items():
        if path.startswith("loha/"):
            leaves.setdefault(path.rsplit("/", 1)[1], []).extend(np.asarray(leaf).ravel())
    assert not np.any(leaves["b_2"])
    for name, deviation in (("a_1", 1.0), ("a_2", 1.0), ("b_1", 0.1)):
        assert np.std(leaves[name]) == pytest.approx(deviation, rel=0.1), name


def test_lokr_is_a_kronecker_product():
    """12 is 3 x 4 and 20 is 4 x 5: the second matrix of rank 2 is whole up to a side of 4."""
    for before, after, own, _ in merged("lokr", "vit_cls", ("block_0/attn/out", "block_0/mlp/fc1", "block_1/attn/key")):
        assert ("d" in own) == (before.size == 144)
        d = own["d"] if "d" in own else own["a"] @ own["b"]
        wanted = before + 4.0 * np.kron(own["c"], d).reshape(before.shape)
        np.testing.assert_allclose(after, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["vit_cls", "resnet_basic"])
def test_lokr_with_the_second_matrix_at_zero(case):
    """LyCORIS: C is drawn, and D, or B of it, starts at zero; so the kernels are the source's."""
    stage = tiny_stage(case, method="lokr", options={**OPTIONS["lokr"], "zero": "second"})
    params, model_state = backbone(stage)
    state = stage.enter(params, model_state, 0)
    leaves = {path: np.asarray(leaf) for path, leaf in flatten(state.params).items() if path.startswith("lokr/")}
    names = {path.rsplit("/", 1)[1] for path in leaves}
    assert names == ({"a", "b", "c", "d"} if case == "vit_cls" else {"c", "d"})
    for path, leaf in leaves.items():
        assert leaf.any() == (path[-2:] in ("/a", "/c")), path
    for path, leaf in flatten(stage.spec.method.merge(state.params, state.extra)).items():
        np.testing.assert_array_equal(leaf, flatten(params)[path])


def test_lokr_of_a_convolution_is_one_at_every_tap():
    for before, after, own, _ in merged("lokr", "resnet_basic", ("block_1/conv_1",)):
        d = own["d"] if "d" in own else np.tensordot(own["a"], own["b"], 1)
        for i in range(3):
            for j in range(3):
                wanted = before[i, j] + 4.0 * np.kron(own["c"], d[i, j])
                np.testing.assert_allclose(after[i, j], wanted, rtol=0, atol=1e-5)


def test_oft_turns_the_rows_of_a_kernel():
    for before, after, own, _ in merged("oft", "vit_cls", ("block_0/attn/out", "block_1/mlp/fc2")):
        rotation = np.zeros((before.size // 12,) * 2)
        for i, q in enumerate(own["q"]):
            skew = np.zeros((4, 4))
            skew[np.triu_indices(4, 1)] = q
            skew -= skew.T
            block = slice(4 * i, 4 * i + 4)
            rotation[block, block] = (np.eye(4) - skew) @ np.linalg.inv(np.eye(4) + skew)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(len(rotation)), rtol=0, atol=1e-12)
        np.testing.assert_allclose(after.reshape(-1, 12), rotation @ before.reshape(-1, 12), rtol=0, atol=1e-5)


def test_a_rotation_is_cayley_s_and_so_are_its_gradients():
    """Against NumPy in float64: R = (I - Q) (I + Q)^-1, and d<w, R> = -2 X' w X' of X = (I + Q)^-1, skew on both sides.

    No LAPACK: batches of it, several at a time, never end on a CPU with some of jaxlib's releases.
    """
    rng, size, places = np.random.default_rng(0), 8, np.triu_indices(8, 1)
    upper, w = rng.normal(size=(5, len(places[0]))), rng.normal(size=(5, size, size))
    skew = np.zeros((5, size, size))
    skew[:, *places] = upper
    skew -= skew.swapaxes(1, 2)
    inverse = np.linalg.inv(np.eye(size) + skew)

    def weighed(q):
        return (oft._rotations(q, 0) * w).sum()

    q = jnp.asarray(upper, jnp.float32)
    np.testing.assert_allclose(oft._rotations(q, 0), (np.eye(size) - skew) @ inverse, atol=2e-6)
    turned = inverse.swapaxes(1, 2)
    wanted = -2 * turned @ w @ turned
    wanted = (wanted - wanted.swapaxes(1, 2))[:, *places]
    np.testing.assert_allclose(jax.grad(weighed)(q), wanted, rtol=1e-5, atol=2e-6)
    assert "custom_call" not in jax.jit(jax.grad(weighed)).lower(q).as_text()


@pytest.mark.parametrize("terms", [4, 5, 6])
def test_oft_by_a_series_turns_the_other_way(terms):
    """peft's series: each power of Q below the last counts twice."""
    for before, after, own, _ in merged("oft", "vit_cls", ("block_0/attn/out",), neumann=terms):
        rotation = np.zeros((12, 12))
        for i, q in enumerate(own["q"]):
            skew = np.zeros((4, 4))
            skew[np.triu_indices(4, 1)] = q
            skew -= skew.T
            block = slice(4 * i, 4 * i + 4)
            powers = [np.linalg.matrix_power(skew, n) for n in range(terms)]
            rotation[block, block] = powers[0] + 2 * sum(powers[1:-1]) + powers[-1]
        np.testing.assert_allclose(after.reshape(-1, 12), rotation @ before.reshape(-1, 12), rtol=0, atol=1e-5)


def test_oft_takes_the_largest_block_that_fits():
    """Of 12 channels no 8, but 6; 20 have 5."""
    stage = tiny_stage("vit_cls", method="oft", options={"block": 8})
    shapes = {path: leaf.shape for path, leaf in flatten(stage.shapes[0]["oft"]).items()}
    assert (shapes["block_0/attn/out/q"], shapes["block_0/mlp/fc2/q"]) == ((2, 15), (4, 10))


@pytest.mark.parametrize(
    "method,options,count",
    [
        ("vera", {"rank": 256}, 24_576),
        ("vera", {"rank": 1024}, 43_008),
        ("loha", {"rank": 8}, 589_824),
        ("lokr", {"rank": 8}, 26_112),
        ("oft", {"block": 32}, 285_696),
    ],
)
def test_counts_of_query_and_value_on_roberta_base(method, options, count):
    assert added(method, "roberta", targets=(r".*/attn/(query|value)/kernel",), **options) == count


@pytest.mark.parametrize(
    "method,options,message",
    [
        ("vera", {"rank": 0}, "vera: expected rank >= 1, found 0"),
        ("vera", {"initial": 0.0}, "vera: expected an initial scale other than 0"),
        ("loha", {"rank": 0}, "loha: expected rank >= 1, found 0"),
        ("loha", {"start": "pft"}, "loha: unknown start 'pft'; nearest: 'peft'; omit it, or name peft or lycoris"),
        ("lokr", {"rank": 0}, "lokr: expected rank >= 1, found 0"),
        ("lokr", {"zero": "secnd"}, "lokr: unknown zero 'secnd'; nearest: 'second'"),
        ("oft", {"block": 1}, "oft: expected block >= 2, found 1"),
        ("oft", {"neumann": 3}, "oft: expected neumann >= 4, or 0 for the exact solution, found 3"),
        ("dora", {"rank": 0}, "dora: expected rank >= 1, found 0"),
    ],
)
def test_options_are_checked(method, options, message):
    with pytest.raises(InputError, match=message):
        METHODS.make(method, tiny_stage("vit_cls").spec.port, **options)

"""`peft` adapters read: sums by hand, names of either transformers, and everything that is not understood."""

from __future__ import annotations

import json
import math
import os
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxfer.errors import InputError
from jaxfer.pretrained import foreign, located, peft_layer
from jaxfer.pretrained.hub import Absent, find
from tests.pretrained.checkpoints import RESNET, VIT, checkpoint, edit, text_config, weights

CONV = "resnet.encoder.stages.1.layers.0.layer.0.convolution"  # [8, 4, 3, 3]
POINT = "resnet.encoder.stages.1.layers.0.shortcut.convolution"  # [8, 4, 1, 1]
QUERY = "vit.encoder.layer.0.attention.attention.query"  # [12, 12]
DRAW = np.random.default_rng(0)


def normal(*shape):
    return DRAW.normal(size=shape).astype(np.float32)


def pair(module, a, b):
    return {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}


def write(folder, tensors, **config):
    """An adapter in `folder`, on the checkpoint `base` beside it; rank 2 and alpha 3 but for `config`."""
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "base_model_name_or_path": "../base", "r": 2, "lora_alpha": 3, **config}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture
def resnet(tmp_path):
    checkpoint(tmp_path / "base", "resnet", RESNET)
    return tmp_path


@pytest.fixture
def vit(tmp_path):
    checkpoint(tmp_path / "base", "vit", VIT)
    return tmp_path


def merged(folder):
    return located.weights(find(str(folder)))


def convolved(b, a):
    """(B A)[o, i, y, x] = sum over r of B[o, r] A[r, i, y, x]."""
    return sum(b[:, r, 0, 0][:, None, None, None] * a[r][None] for r in range(a.shape[0]))


def test_updates_by_hand_with_ranks_and_alphas_of_their_own(resnet):
    a, b, c, d = normal(2, 4, 3, 3), normal(8, 2, 1, 1), normal(3, 4, 1, 1), normal(8, 3, 1, 1)
    head = {"base_model.model.classifier.1.weight": normal(5, 8), "base_model.model.classifier.1.bias": normal(5)}
    # The first pattern that the name ends with counts; one that only begins it is of another module.
    ranks = {"encoder.stages.1": 7, r"shortcut\.convolution": 3, "convolution": 2}
    folder = write(
        resnet / "adapter",
        {**pair(CONV, a, b), **pair(POINT, c, d), **head},
        rank_pattern=ranks,
        alpha_pattern={"layers.0.shortcut.convolution": 6},
        modules_to_save=["classifier"],
        task_type=None,
        target_modules=["convolution"],
        lora_dropout=0.1,
        peft_version="0.21.2",
    )
    base, found = weights(resnet / "base"), merged(folder)
    np.testing.assert_allclose(found[f"{CONV}.weight"], base[f"{CONV}.weight"] + 3 / 2 * convolved(b, a), atol=1e-6)
    np.testing.assert_allclose(found[f"{POINT}.weight"], base[f"{POINT}.weight"] + 6 / 3 * convolved(d, c), atol=1e-6)
    assert found.merged == {f"{CONV}.weight": CONV, f"{POINT}.weight": POINT}
    for name in ("weight", "bias"):
        key = f"classifier.1.{name}"
        np.testing.assert_array_equal(found[key], head[f"base_model.model.{key}"])
        assert found.moved[key] == f"base_model.model.{key}"
    rest = base.keys() - found.merged.keys() - found.moved.keys()
    assert len(rest) == len(base) - 4 and all(np.array_equal(found[key], base[key]) for key in rest)
    checked = foreign.opened(str(folder), "auto", {})
    assert (checked.outputs, checked.labels) == (5, ())  # the base's names are of the base's head


@pytest.mark.parametrize("name", [QUERY, "vit.layers.0.attention.q_proj", "layers.0.attention.q_proj"])
def test_stabilised_rank_under_the_names_of_transformers_4_and_5(vit, name):
    """arXiv:2312.03732: alpha / sqrt(r). A bare `ViTModel` has no prefix."""
    a, b = normal(2, 12), normal(12, 2)
    folder = write(vit / "adapter", pair(name, a, b), use_rslora=True)
    base, found = weights(vit / "base"), merged(folder)
    expected = base[f"{QUERY}.weight"] + 3 / math.sqrt(2) * b @ a
    np.testing.assert_allclose(found[f"{QUERY}.weight"], expected, atol=1e-6)
    assert foreign.opened(str(folder), "auto", {}).labels == ("class_0", "class_1", "class_2")  # the base's own head


def test_a_classifiers_adapter_pools_as_transformers_does(tmp_path):
    """Its base may be one of sentence-transformers', which says otherwise."""
    base, query = tmp_path / "base", "bert.encoder.layer.0.attention.self.query"
    text_config(base)
    (base / "1_Pooling").mkdir()
    (base / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    low = pair(query, normal(2, 12), normal(12, 2))
    encoder = write(tmp_path / "encoder", low, task_type="FEATURE_EXTRACTION")
    head = {f"base_model.model.classifier.{name}": x for name, x in (("weight", normal(4, 12)), ("bias", normal(4)))}
    classifier = write(tmp_path / "classifier", {**low, **head}, modules_to_save=["classifier"])
    found = [foreign.opened(str(folder), "auto", {}) for folder in (base, encoder, classifier)]
    assert [entry.options["pool"] for entry in found] == ["mean", "mean", "pooler"]
    assert [entry.outputs for entry in found] == [3, 3, 4]
    bare = {key: x for key, x in weights(base).items() if "pooler" not in key}
    save_file(bare, base / "model.safetensors")
    with pytest.raises(InputError, match="the adapter's head reads a pooler, which its base model does not have"):
        foreign.opened(str(classifier), "auto", {})


REFUSED = {
    "another kind": (
        {"peft_type": "XLORA"},
        "a peft adapter of type 'XLORA'; expected LORA, ADALORA, VERA, LOHA, LOKR",
    ),
    "dora": ({"use_dora": True}, "says use_dora=True, vit.layers.0.attention.q_proj has no lora_magnitude_vector"),
    "biases of nothing": ({"bias": "some"}, "says bias='some', which is not supported"),
    "turned": ({"fan_in_fan_out": True}, "says fan_in_fan_out=True"),
    "a base that peft changes": ({"init_lora_weights": "loftq"}, "says init_lora_weights='loftq'"),
    "a base that peft changes at random": (
        {"init_lora_weights": "pissa_niter_4"},
        "says init_lora_weights='pissa_niter",
    ),
    "the future": ({"use_something": {"new": 1}}, "says use_something={'new': 1}"),
    "another rank": ({"r": 4}, "gives vit.layers.0.attention.q_proj rank 4, its tensors have 2"),
    "no alpha": ({"lora_alpha": None}, "has no rank and alpha for vit.layers.0.attention.q_proj"),
    "no pattern": ({"rank_pattern": {"[": 2}}, "has no rank and alpha for vit.layers.0.attention.q_proj"),
    "a pattern that backtracks": ({"alpha_pattern": {"(a+)+x": 2}}, "the pattern '(a+)+x' may take forever to match"),
    "an alpha beyond float32": ({"lora_alpha": 1e308}, "q_proj, scaled by 5e+307, is not finite in float32; correct"),
    "an infinite alpha": ({"lora_alpha": math.inf}, "lora_alpha: expected a finite number, found inf"),
    "an alpha that is none": ({"alpha_pattern": {"q_proj": math.nan}}, "q_proj: expected a finite number, found nan"),
    "a task in a list": ({"task_type": ["SEQ_CLS"]}, "task_type: expected str, found ['SEQ_CLS'] (list)"),
    "a revision that is a number": ({"revision": 3}, "revision: expected str, found 3 (int)"),
    "modules that are numbers": ({"modules_to_save": [3]}, "modules_to_save[0]: expected str, found 3 (int)"),
    "a base at an address": (
        {"base_model_name_or_path": "file://x"},
        "file://x: expected a folder, a file or a Hub name, found an address",
    ),
    "a base in a store": ({"base_model_name_or_path": "gs://b/x"}, "gs://b/x needs the package gcsfs; pip install"),
    "no base": ({"base_model_name_or_path": None}, "names no base model; set base_model_name_or_path"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_config_says_and_is_not_understood(case, vit, monkeypatch):
    changed, message = REFUSED[case]
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # which may be installed
    folder = write(vit / "adapter", pair("vit.layers.0.attention.q_proj", normal(2, 12), normal(12, 2)), **changed)
    with pytest.raises(InputError) as caught:
        merged(folder)
    assert message in str(caught.value) and str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "quick"),
    [
        ("encoder.stages.1", True),
        (r"^model\.layers\.\d+\.self_attn\.(q|k|v)_proj", True),
        (r".*layers\.(0|1|11)\..*[qk]_proj", True),
        (r"(?:a|b)?[*+(]\(x", True),
        ("(a+)+x", False),
        ("(a|a)(a|a)(a|a)(a|a)(a|a)", False),
        ("a?" * 30 + "a" * 30, False),
        (".*.*.*.*x", False),
        ("(a?){30}x", False),
        (r"(a)?+", False),
        ("(?=a)", False),
        ("a" * 501, False),
    ],
)
def test_patterns_of_strangers_match_in_bounded_time(pattern, quick):
    assert peft_layer.quick(pattern) == quick


def test_weights_that_are_not_finite(vit):
    low = pair("vit.layers.0.attention.q_proj", np.full((2, 12), np.nan, np.float32), normal(12, 2))
    with pytest.raises(InputError, match="the update of vit.layers.0.attention.q_proj, scaled by 1.5, is not finite"):
        merged(write(vit / "adapter", low))


Q = "base_model.model.vit.layers.0.attention.q_proj"
TENSORS = {
    "a key of dora": (
        {**pair(Q[17:], normal(2, 12), normal(12, 2)), f"{Q}.lora_magnitude_vector": normal(12)},
        "says use_dora=None, vit.layers.0.attention.q_proj has a lora_magnitude_vector",
    ),
    "a saved module that is not named": ({"base_model.model.classifier.weight": normal(3, 12)}, "classifier.weight"),
    "half a pair": ({f"{Q}.lora_A.weight": normal(2, 12)}, "q_proj without its other half"),
    "a module that is not there": (
        pair("vit.layers.0.attention.q_lin", normal(2, 12), normal(12, 2)),
        "changes vit.layers.0.attention.q_lin, which its base model does not have; nearest: "
        "'vit.layers.0.attention.q_proj', 'vit.layers.1.attention.q_proj', ",
    ),
    "modules that are not there": (
        {**pair("vit.layers.7.q_proj", normal(2, 12), normal(12, 2)), **pair("x", normal(2, 12), normal(12, 2))},
        "changes vit.layers.7.q_proj and 1 more, which its base model does not have; nearest: 'vit.layers.",
    ),
    "a bias that no config names": ({f"{Q}.base_layer.bias": normal(12)}, "q_proj.base_layer.bias (1 such), which is"),
    "another width": (pair(Q[17:], normal(2, 8), normal(12, 2)), "A [2, 8] and B [12, 2] of vit.layers.0"),
    "a convolution": (
        pair(Q[17:], normal(2, 12, 1, 1), normal(12, 2, 1, 1)),
        "don't form an update of vit.encoder.layer.0",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_without_a_place(case, vit):
    tensors, message = TENSORS[case]
    with pytest.raises(InputError) as caught:
        merged(write(vit / "adapter", tensors))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_changes_no_layer(vit):
    head = {f"base_model.model.classifier.{name}": x for name, x in (("weight", normal(4, 12)), ("bias", normal(4)))}
    folder = write(vit / "adapter", head, modules_to_save=["classifier"])
    message = r"holds only the saved classifier.bias, classifier.weight, so the adapter changes no layer of its base"
    with pytest.raises(InputError, match=message):
        merged(folder)


def test_biases_that_were_trained_with_it(vit):
    own = {f"{Q}.base_layer.bias": normal(12), "base_model.model.vit.layernorm.bias": normal(12)}
    copies = {"base_model.model.classifier.original_module.bias": normal(3)}
    head = {"base_model.model.classifier.weight": normal(3, 12), "base_model.model.classifier.bias": normal(3)}
    tensors = {**pair(Q[17:], normal(2, 12), normal(12, 2)), **own, **copies, **head}
    found = merged(write(vit / "adapter", tensors, bias="all", modules_to_save=["classifier"]))
    assert found.keys() == weights(vit / "base").keys()
    np.testing.assert_array_equal(found[f"{QUERY}.bias"], own[f"{Q}.base_layer.bias"])
    np.testing.assert_array_equal(found["vit.layernorm.bias"], own["base_model.model.vit.layernorm.bias"])
    np.testing.assert_array_equal(found["classifier.bias"], head["base_model.model.classifier.bias"])
    assert found.moved[f"{QUERY}.bias"] == f"{Q}.base_layer.bias"


def kinds(draw):
    """{kind: (its tensors of a layer, its config, W -> what the layer becomes)}, formulas written out."""
    w = lambda *shape: draw.normal(size=shape).astype(np.float32)  # noqa: E731
    a, b, e, u, block, spectrum = w(3, 12), w(12, 3), w(3, 1), w(12, 1), w(5, 12), w(2)
    repeated = np.concatenate([block, block, block[:2]])  # 12 inputs, 5 at a time
    unit = u / np.linalg.norm(u)

    def waves(weight):
        """Entries 23 and 139 of 144, the first two of `torch.randperm(144)` under seed 777."""
        sums = 0
        for value, entry in zip(spectrum, (23, 139), strict=True):
            row, column = divmod(entry, 12)
            places = np.add.outer(row * np.arange(12), column * np.arange(12))
            sums = sums + value * np.cos(2 * np.pi * places / 12)
        return weight + 150 * sums / 144

    return {
        "ADALORA": (
            {"lora_A": a, "lora_B": b, "lora_E": e},
            {"init_r": 6, "lora_alpha": 3, "r": 8},
            lambda weight: weight + 3 / (6 + 1e-5) * b @ (e * a),
        ),
        "HRA": ({"hra_u": u}, {"r": 1}, lambda weight: weight @ (np.eye(12) - 2 * unit @ unit.T)),
        "MISS": ({"miss_block": block}, {"r": 5}, lambda weight: weight + repeated.T),
        "FOURIERFT": (
            {"fourierft_spectrum": spectrum},
            {"n_frequency": 2, "scaling": 150.0, "random_loc_seed": 777, "r": None, "lora_alpha": None},
            waves,
        ),
    }


@pytest.mark.parametrize("kind", ["ADALORA", "HRA", "MISS", "FOURIERFT"])
def test_other_kinds_by_hand(kind, vit):
    tensors, config, formula = kinds(np.random.default_rng(1))[kind]
    named = {f"{Q}.{name}": x for name, x in tensors.items()}
    found = merged(write(vit / "adapter", named, peft_type=kind, **{"lora_alpha": None, **config}))
    base = weights(vit / "base")[f"{QUERY}.weight"].astype(np.float64)
    np.testing.assert_allclose(found[f"{QUERY}.weight"], formula(base), rtol=0, atol=1e-5)


def test_projections_that_are_neither_there_nor_drawn(vit):
    own = {f"{Q}.vera_lambda_b": normal(12), f"{Q}.vera_lambda_d": normal(2)}
    folder = write(vit / "adapter", own, peft_type="VERA", lora_alpha=None, projection_prng_key=3)
    with pytest.raises(InputError, match="has no base_model.vera_A and base_model.vera_B, and adapter_config"):
        merged(folder)
    edit(folder / "adapter_config.json", save_projection=False)
    once, again = (merged(folder)[f"{QUERY}.weight"] for _ in range(2))
    np.testing.assert_array_equal(once, again)
    edit(folder / "adapter_config.json", projection_prng_key=4)
    assert np.abs(merged(folder)[f"{QUERY}.weight"] - once).max() > 0.1


def test_where_its_base_may_lie(vit, monkeypatch):
    tensors = pair(QUERY, normal(2, 12), normal(12, 2))
    folder = write(vit / "adapter", tensors)
    beside = merged(folder)[f"{QUERY}.weight"]
    edit(folder / "adapter_config.json", base_model_name_or_path=str(vit / "base"))
    np.testing.assert_array_equal(merged(folder)[f"{QUERY}.weight"], beside)
    monkeypatch.chdir(vit)
    edit(folder / "adapter_config.json", base_model_name_or_path="base")
    np.testing.assert_array_equal(merged("adapter")[f"{QUERY}.weight"], beside)
    edit(folder / "adapter_config.json", base_model_name_or_path="../elsewhere")
    with pytest.raises(Absent, match="the adapter's base model '../elsewhere': .*no such folder or file"):
        find("adapter")
    edit(folder / "adapter_config.json", base_model_name_or_path=str(folder))
    with pytest.raises(InputError, match="the adapter's base model .*: the adapter itself; name the model that"):
        find(str(folder))
    edit(folder / "adapter_config.json", base_model_name_or_path="../base")
    second = write(vit / "second", tensors, base_model_name_or_path=str(folder))
    with pytest.raises(InputError, match="the adapter's base model .*: an adapter too; merge that one"):
        find(str(second))
    (vit / "base" / "config.json").unlink()
    edit(folder / "adapter_config.json", base_model_name_or_path="../base")
    with pytest.raises(InputError, match="the adapter's base model '.*base' has no config.json"):
        find(str(folder))


def test_folders_that_are_half_an_adapter_or_two_things(vit):
    folder = write(vit / "adapter", pair(QUERY, normal(2, 12), normal(12, 2)))
    with pytest.raises(InputError, match="part of a peft adapter; give its folder"):
        find(str(folder / "adapter_model.safetensors"))
    save_file({"w": normal(1)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"both an adapter and a model \(model.safetensors\); give that file, or move"):
        find(str(folder))
    (folder / "model.safetensors").unlink()
    (folder / "adapter_config.json").rename(vit / "adapter_config.json")
    with pytest.raises(Absent, match="an adapter without adapter_config.json"):
        find(str(folder))
    (vit / "adapter_config.json").rename(folder / "adapter_config.json")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(Absent, match="an adapter without weights; expected adapter_model.safetensors"):
        find(str(folder))


def test_it_is_another_source_when_any_of_its_files_or_its_base_changes(vit):
    folder = write(vit / "adapter", pair(QUERY, normal(2, 12), normal(12, 2)))
    places = [folder / "adapter_model.safetensors", folder / "adapter_config.json", vit / "base" / "model.safetensors"]
    changes = [
        lambda: None,
        lambda: save_file(pair(QUERY, normal(2, 12), normal(12, 2)), places[0]),
        lambda: edit(places[1], lora_alpha=5),
        lambda: save_file({**weights(vit / "base"), "classifier.bias": normal(3)}, places[2]),
    ]
    found = []
    for change in changes:
        change()
        for place in places:  # long settled, so that what is kept is asked for
            os.utime(place, (time.time() - 100 + len(found),) * 2)
        found.append(located.located_files(str(folder))[0].sha256)
    assert len(set(found)) == 4


def test_nothing_is_added_to_a_standardised_kernel(tmp_path):
    options = dict(stage_sizes=(1,), width=4, widths=(8,), groups=2, image=(9, 7, 3))
    checkpoint(tmp_path / "base", "bit", options)
    module = "bit.encoder.stages.0.layers.0.conv1"
    folder = write(tmp_path / "adapter", pair(module, normal(2, 4, 1, 1), normal(8, 2, 1, 1)))
    with pytest.raises(InputError, match=f"to the output of {module}, whose kernel is standardised before"):
        merged(folder)

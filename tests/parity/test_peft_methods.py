"""Adapters of other kinds than LoRA: with the tensors of peft's own model, our logits are those of it."""

from __future__ import annotations

import copy
import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

import jaxfer
from jaxfer.errors import InputError
from jaxfer.exports.predict import load_export
from jaxfer.method import NOTHING
from jaxfer.pretrained import peft_draws
from jaxfer.registry import METHODS
from jaxfer.rules import flatten, unflatten

from .reference import channels_first, images, settle
from .test_export import BERT, VIT

SITES = {
    "attention.self.query": "attn/query",
    "attention.self.key": "attn/key",
    "attention.self.value": "attn/value",
    "attention.output.dense": "attn/out",
    "intermediate.dense": "mlp/fc1",
    "output.dense": "mlp/fc2",
}
EVERY = r".*encoder\.layer\.\d+\..*(query|key|value|dense)"
SECOND = r".*encoder\.layer\.\d+\.output\.dense"
READ = r".*encoder\.layer\.\d+\.attention\.self\.(key|value)|"
# {case: (method, its options, peft's config)}
CASES = {
    "rslora": (
        "lora",
        {"rank": 4, "alpha": 6.0, "scaling": "rank_stabilised"},
        dict(r=4, lora_alpha=6, use_rslora=True),
    ),
    "dora": ("dora", {"rank": 2, "alpha": 6.0}, dict(r=2, lora_alpha=6, use_dora=True)),
    "vera": ("vera", {"rank": 5}, dict(r=5, save_projection=True)),
    "ia3": ("ia3", {}, dict(target_modules=READ + SECOND, feedforward_modules=SECOND)),
    "oft": ("oft", {"block": 4}, dict(oft_block_size=4, use_cayley_neumann=False)),
    "oft by a series": ("oft", {"block": 4, "neumann": 5}, dict(oft_block_size=4)),
    "loha": ("loha", {"rank": 2, "alpha": 6.0}, dict(r=2, alpha=6)),
    "lokr": ("lokr", {"rank": 2, "alpha": 6.0}, dict(r=2, alpha=6)),
}
CONFIGS = {
    "lora": peft.LoraConfig,
    "dora": peft.LoraConfig,
    "vera": peft.VeraConfig,
    "ia3": peft.IA3Config,
    "oft": peft.OFTConfig,
    "loha": peft.LoHaConfig,
    "lokr": peft.LoKrConfig,
}
# {name of peft's tensor: ours}; theirs are [out, in], ours [in, out].
NAMES = {
    "lora": {"lora_A": "a", "lora_B": "b"},
    "dora": {"lora_A": "a", "lora_B": "b", "lora_magnitude_vector": "magnitude"},
    "vera": {"vera_lambda_d": "d", "vera_lambda_b": "b"},
    "oft": {"oft_R": "q"},
    "loha": {f"hada_w{i}_{theirs}": f"{ours}_{i}" for i in (1, 2) for theirs, ours in {"a": "b", "b": "a"}.items()},
    "lokr": {"lokr_w1": "c", "lokr_w2": "d", "lokr_w2_a": "b", "lokr_w2_b": "a"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = BertConfig(**BERT, max_position_embeddings=9, initializer_range=0.5, num_labels=3)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_logits(case, base):
    name, options, config = CASES[case]
    model = BertForSequenceClassification.from_pretrained(base)
    tokens = torch.randint(1, 23, (4, 7), generator=torch.Generator().manual_seed(1))
    inputs = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "token_type_ids": torch.zeros_like(tokens),
    }
    plain = logits(model, inputs)
    torch.manual_seed(2)
    reference = peft.get_peft_model(model, CONFIGS[name](**{"target_modules": EVERY, **config})).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    expected = logits(reference, inputs)
    assert np.abs(expected - plain).max() > 0.1
    ours = load_export(base)
    method = METHODS.make(name, ours.port, **({} if name == "ia3" else {"targets": ("block_.*/kernel",)}), **options)
    params, extra = method.init(ours.params, jax.random.key(0), NOTHING)
    params, extra = carried(name, reference, params, extra)
    batch = {field: x.numpy().astype(np.int32) for field, x in inputs.items()}
    view, intercept = method.view(params, extra), method.intercept(params, extra)
    found = ours.port.apply(view, ours.model_state, batch, intercept=intercept)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    merged = ours.port.apply(method.merge(params, extra), ours.model_state, batch)[0]
    np.testing.assert_allclose(merged, expected, rtol=0, atol=1e-5)


WINDOWS = r".*encoder\.stages.*convolution"
POINTS = r".*encoder\.stages.*(shortcut|layer\.[02])\.convolution"  # 1 x 1
NORMS = r".*(LayerNorm|layernorm\w*|normalization)"
TARGETS = {"bert": EVERY, "vit": r".*(\w_proj|fc\d)", "resnet": WINDOWS}
READS_INPUTS = r".*(layer\.\d+\.output\.dense|fc2|1\.convolution)"
ALL = ("bert", "vit", "resnet")
DENSE = ("bert", "vit")  # what peft has for linear layers alone
# {case: (peft's config of an adapter, which is saved and read; the models)}; targets are those of the model.
READS = {
    "dora": (
        peft.LoraConfig(r=2, lora_alpha=3, use_dora=True, rank_pattern={"value": 1, "v_proj": 1, r"1\.convolution": 1}),
        ALL,
    ),
    "rslora": (
        peft.LoraConfig(r=2, lora_alpha=3, use_rslora=True, alpha_pattern={"value": 5, "fc1": 5, "2.convolution": 5}),
        ALL,
    ),
    "lora and biases": (peft.LoraConfig(r=2, lora_alpha=3, bias="lora_only"), DENSE),
    "lora and every bias": (peft.LoraConfig(r=2, lora_alpha=3, bias="all", modules_to_save=["classifier"]), ALL),
    "lora with a bias": (peft.LoraConfig(r=2, lora_alpha=3, lora_bias=True), DENSE),
    "pissa": (peft.LoraConfig(r=2, lora_alpha=3, init_lora_weights="pissa"), DENSE),
    "olora": (peft.LoraConfig(r=2, lora_alpha=3, use_rslora=True, init_lora_weights="olora"), DENSE),
    "lora of an embedding": (
        peft.LoraConfig(r=2, lora_alpha=3, target_modules=["word_embeddings", "query"]),
        ("bert",),
    ),
    "lora and tokens": (
        peft.LoraConfig(r=2, target_modules=["query"], trainable_token_indices={"word_embeddings": [3, 7]}),
        ("bert",),
    ),
    "tokens": (peft.TrainableTokensConfig(token_indices=[3, 7, 11], target_modules=["word_embeddings"]), ("bert",)),
    "adalora": (peft.AdaLoraConfig(init_r=3, target_r=2, total_step=10, lora_alpha=5), ALL),
    "vera": (peft.VeraConfig(r=5, save_projection=True), DENSE),
    "vera without projections": (peft.VeraConfig(r=5, save_projection=False, projection_prng_key=11), DENSE),
    "ia3": (peft.IA3Config(feedforward_modules=READS_INPUTS), ALL),
    "oft": (peft.OFTConfig(oft_block_size=4, use_cayley_neumann=False), DENSE),
    "oft of a series": (peft.OFTConfig(oft_block_size=4), DENSE),
    **{
        f"oft of {n} terms": (
            peft.OFTConfig(oft_block_size=4, use_cayley_neumann=True, num_cayley_neumann_terms=n),
            ("bert",),
        )
        for n in (2, 3, 4, 6)
    },
    "oft of points": (
        peft.OFTConfig(oft_block_size=2, use_cayley_neumann=False, target_modules=POINTS),
        ("resnet",),
    ),
    "oft in bounds": (peft.OFTConfig(oft_block_size=4, use_cayley_neumann=False, coft=True, eps=0.6), ("bert",)),
    "oft of one block": (peft.OFTConfig(oft_block_size=4, block_share=True), ("bert",)),
    "boft": (peft.BOFTConfig(boft_block_size=2), ALL),
    "butterflies": (peft.BOFTConfig(boft_block_size=2, boft_n_butterfly_factor=2), ("bert",)),
    "hra": (peft.HRAConfig(r=2), ALL),
    "hra made orthogonal": (peft.HRAConfig(r=2, apply_GS=True), ALL),
    "loha": (peft.LoHaConfig(r=2, alpha=3), ALL),
    "loha with cores": (peft.LoHaConfig(r=2, alpha=3, use_effective_conv2d=True), ("resnet",)),
    "lokr": (peft.LoKrConfig(r=2, alpha=3, decompose_both=True), ALL),
    "lokr with cores": (peft.LoKrConfig(r=1, alpha=3, use_effective_conv2d=True, decompose_factor=1), ("resnet",)),
    "fourier": (peft.FourierFTConfig(n_frequency=40, scaling=40.0, random_loc_seed=5), DENSE),
    "miss": (peft.MissConfig(r=3), DENSE),
    "miss by blocks": (peft.MissConfig(r=4, init_weights="bat"), ("bert",)),
    "miss in small": (peft.MissConfig(r=3, mini_r=4, init_weights="mini"), ("bert",)),
    "norms": (peft.LNTuningConfig(target_modules=NORMS), ALL),
}


def their_model(kind, folder):
    """(peft's base, saved in the folder; its inputs; ours)."""
    torch.manual_seed(0)
    if kind == "bert":
        config = BertConfig(**BERT, max_position_embeddings=9, initializer_range=0.5, num_labels=3)
        BertForSequenceClassification(config).save_pretrained(folder)
        tokens = torch.randint(1, 23, (4, 7), generator=torch.Generator().manual_seed(1))
        tokens[0, :4] = torch.tensor([3, 7, 11, 3])
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        inputs["token_type_ids"] = torch.zeros_like(tokens)
        return BertForSequenceClassification, inputs, {name: x.numpy().astype(np.int32) for name, x in inputs.items()}
    if kind == "vit":
        make, stated, last = (
            ViTForImageClassification,
            ViTConfig(**VIT, image_size=8, num_labels=3),
            r".*\.(o_proj|fc2)",
        )
        x = images((8, 8, 3))
    else:
        make, last, x = ResNetForImageClassification, r".*layer\.1\.normalization", images((33, 21, 3))
        stated = ResNetConfig(embedding_size=4, hidden_sizes=[8, 16], depths=[1, 2], num_labels=3)
    settle(make(stated), channels_first(x), last=last, gain=0.5).save_pretrained(folder)
    return make, {"pixel_values": channels_first(x)}, {"image": x}


@pytest.mark.parametrize(("case", "kind"), [(case, kind) for case, (_, kinds) in READS.items() for kind in kinds])
def test_an_adapter_that_peft_saved(case, kind, tmp_path, monkeypatch):
    make, inputs, batch = their_model(kind, tmp_path / "base")
    config = copy.deepcopy(READS[case][0])  # peft writes the base into it
    config.target_modules = config.target_modules or TARGETS[kind]
    if case == "butterflies":  # peft has several factors with its CUDA extension alone
        boft = peft.tuners.boft.layer
        monkeypatch.setattr(boft, "get_fbd_cuda", lambda: True)
        diagonal = lambda turns: torch.stack([torch.block_diag(*each) for each in turns])  # noqa: E731
        monkeypatch.setattr(boft, "FastBlockDiag", types.SimpleNamespace(apply=diagonal))
    model = make.from_pretrained(tmp_path / "base")
    plain = logits(model, inputs)
    torch.manual_seed(2)
    reference = peft.get_peft_model(model, config)
    if case == "norms":  # running statistics too
        with torch.no_grad():
            reference.train()(**inputs)
    with torch.no_grad():
        for parameter in reference.eval().parameters():
            if parameter.requires_grad:
                parameter.add_((0.5 if "tokens" in case else 0.2) * torch.randn(parameter.shape))
    reference.save_pretrained(tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(make.from_pretrained(tmp_path / "base"), str(tmp_path / "adapter"))
    expected = logits(theirs, inputs)
    assert np.abs(expected - plain).max() > 0.1
    ours = load_export(tmp_path / "adapter")
    found = np.asarray(ours.port.apply(ours.params, ours.model_state, batch)[0])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))


def their_adapter(case, kind, folder):
    """(peft's class and inputs, ours) of an adapter with random tensors, saved in the folder."""
    make, inputs, batch = their_model(kind, folder / "base")
    config = copy.deepcopy(READS[case][0])
    config.target_modules = config.target_modules or TARGETS[kind]
    torch.manual_seed(2)
    reference = peft.get_peft_model(make.from_pretrained(folder / "base"), config)
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    reference.save_pretrained(folder / "adapter")
    return make, inputs, batch


@pytest.mark.parametrize(
    ("case", "kind"), [("adalora", "resnet"), ("vera", "vit"), ("fourier", "bert"), ("miss by blocks", "bert")]
)
def test_an_adapter_as_lora(case, kind, tmp_path):
    """What jaxfer writes of no method of its own, or not in this kind: at full rank peft's logits are the same."""
    make, inputs, batch = their_adapter(case, kind, tmp_path)
    out = jaxfer.export(tmp_path / "adapter", format="peft", as_lora=64, out=tmp_path / "low")
    expected, found = (
        logits(peft.PeftModel.from_pretrained(make.from_pretrained(tmp_path / "base"), str(folder)).eval(), inputs)
        for folder in (tmp_path / "adapter", out)
    )
    bound = dict(rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, **bound)
    assert max(json.loads((out / "jaxfer.json").read_text())["as_lora"]["error"].values()) < 1e-6
    ours = load_export(out)
    np.testing.assert_allclose(ours.port.apply(ours.params, ours.model_state, batch)[0], expected, **bound)


@pytest.mark.parametrize(("case", "what"), [("tokens", "word_embeddings.weight"), ("lora and biases", "bias")])
def test_an_adapter_that_is_no_lora(case, what, tmp_path):
    their_adapter(case, "bert", tmp_path)
    with pytest.raises(InputError, match=f"--as=lora has no word for what the adapter does to .*{what}; use it as it"):
        jaxfer.export(tmp_path / "adapter", format="peft", as_lora=2)
    assert not (tmp_path / "adapter/export-peft").exists()


def test_ranks_that_adalora_pruned(tmp_path):
    """peft cuts them out of the file, and keeps the scale of all."""
    make, inputs, batch = their_model("bert", tmp_path / "base")
    config = peft.AdaLoraConfig(init_r=3, target_r=2, total_step=10, lora_alpha=5, target_modules=["query"])
    reference = peft.get_peft_model(make.from_pretrained(tmp_path / "base"), config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn(parameter.shape))
    query = "bert.encoder.layer.{}.attention.self.query.lora_E"
    reference.peft_config["default"].rank_pattern = {
        query.format(0): [True, False, True],
        query.format(1): [False, True, False],
    }
    reference.save_pretrained(tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(make.from_pretrained(tmp_path / "base"), str(tmp_path / "adapter"))
    expected, ours = logits(theirs, inputs), load_export(tmp_path / "adapter")
    assert np.abs(expected - logits(reference, inputs)).max() > 1e-3
    found = np.asarray(ours.port.apply(ours.params, {}, batch)[0])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_pissa_that_peft_turned_into_lora(tmp_path):
    """`path_initial_model_for_weight_conversion`: of twice the rank, for the base as it was."""
    make, inputs, batch = their_model("bert", tmp_path / "base")
    config = peft.LoraConfig(r=2, lora_alpha=3, init_lora_weights="pissa", target_modules=["query", "value"])
    reference = peft.get_peft_model(make.from_pretrained(tmp_path / "base"), config).eval()
    reference.peft_config["default"].init_lora_weights = True  # of the start itself
    reference.save_pretrained(tmp_path / "start")
    reference.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    expected = logits(reference, inputs)
    start = str(tmp_path / "start")
    reference.save_pretrained(tmp_path / "adapter", path_initial_model_for_weight_conversion=start)
    ours = load_export(tmp_path / "adapter")
    found = np.asarray(ours.port.apply(ours.params, {}, batch)[0])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_what_torch_draws():
    """Beyond the sizes of the models above."""
    generator = torch.Generator().manual_seed(2**40 + 3)
    expected = [torch.empty(7, 512).uniform_(-0.3, 0.3, generator=generator), torch.empty(64, 7)]
    expected[1].uniform_(-2, 2, generator=generator)
    found = peft_draws.uniform(2**40 + 3, [((7, 512), 0.3), ((64, 7), 2.0)])
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=3e-7)
    expected = torch.randperm(768 * 768, generator=torch.Generator().manual_seed(777))[:1000]
    np.testing.assert_array_equal(peft_draws.permutation(777, 768 * 768, 1000), expected.numpy())


def test_windows_that_peft_rotates_are_no_kernel(tmp_path):
    """peft's own model and its merge differ, and the former does not start from the base's outputs."""
    make, inputs, _ = their_model("resnet", tmp_path / "base")
    model = make.from_pretrained(tmp_path / "base")
    plain = logits(model, inputs)
    config = peft.OFTConfig(oft_block_size=2, target_modules=r".*stages.*1\.convolution")
    reference = peft.get_peft_model(model, config)
    assert np.abs(logits(reference, inputs) - plain).max() > 0.1
    reference.save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match="a convolution of 3 x 3, is not supported: peft adds its rotated windows up"):
        load_export(tmp_path / "adapter")


def logits(model, inputs):
    with torch.no_grad():
        return model.eval()(**inputs).logits.numpy()


def carried(name, reference, params, extra):
    """Our parameters with the tensors of peft's model, each of which has a place."""
    leaves, tensors = flatten(params), peft.get_peft_model_state_dict(reference)
    own = {path for path in leaves if path.startswith(f"{name}/")}
    if name == "vera":
        extra = {ours: jnp.asarray(tensors.pop(f"base_model.vera_{ours.upper()}").numpy().T) for ours in "ab"}
    for path, tensor in tensors.items():
        i, module, theirs = re.search(rf"layer\.(\d+)\.({'|'.join(SITES)})\.(\w+)", path).groups()
        leaf = _named(name, theirs, SITES[module])
        place = f"{name}/block_{i}/{SITES[module]}/{leaf}"
        value = tensor.numpy() if leaf == "q" else tensor.numpy().T
        leaves[place] = jnp.asarray(value.reshape(leaves[place].shape))
        own.remove(place)
    assert not own
    return unflatten(leaves), extra


def _named(name, theirs, site):
    if name == "ia3":
        return "inputs" if site == "mlp/fc2" else "outputs"
    return NAMES[name][theirs]

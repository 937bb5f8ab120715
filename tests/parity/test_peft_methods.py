"""Adapters of other kinds than LoRA: with the tensors of peft's own model, our logits are those of it."""

from __future__ import annotations

import copy
import re

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, ResNetConfig, ResNetForImageClassification

from jaxfer.exports.predict import load_export
from jaxfer.method import NOTHING
from jaxfer.registry import METHODS
from jaxfer.rules import flatten, unflatten

from .reference import channels_first, images, settle
from .test_export import BERT

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


# {case: peft's config of an adapter of the images' or the texts' model, which is saved and read}
BOTH = r".*encoder\.stages.*convolution|.*(query|key|value|dense)"
READS = {
    "dora": peft.LoraConfig(r=2, lora_alpha=3, use_dora=True, rank_pattern={"value": 1, "1.convolution": 1}),
    "rslora": peft.LoraConfig(r=2, lora_alpha=3, use_rslora=True, alpha_pattern={"value": 5}),
    "vera": peft.VeraConfig(r=5, save_projection=True),
    "ia3": peft.IA3Config(feedforward_modules=SECOND + r"|.*1\.convolution"),
    "oft": peft.OFTConfig(oft_block_size=4, use_cayley_neumann=False),
    "oft of a series": peft.OFTConfig(oft_block_size=4),
    **{
        f"oft of {n} terms": peft.OFTConfig(oft_block_size=4, use_cayley_neumann=True, num_cayley_neumann_terms=n)
        for n in (2, 3, 4, 6)
    },
    "loha": peft.LoHaConfig(r=2, alpha=3),
    "lokr": peft.LoKrConfig(r=2, alpha=3, decompose_both=True),
    "norms": peft.LNTuningConfig(),
}
OF_TEXTS_ALONE = ("vera", "norms", *(case for case in READS if case.startswith("oft")))  # their layers are linear


@pytest.mark.parametrize(
    ("case", "kind"), [(c, k) for c in READS for k in ("bert", "resnet") if k == "bert" or c not in OF_TEXTS_ALONE]
)
def test_an_adapter_that_peft_saved(case, kind, base, tmp_path):
    config = copy.deepcopy(READS[case])  # peft writes the base into it
    config.target_modules = r".*LayerNorm" if case == "norms" else EVERY if kind == "bert" else BOTH
    if kind == "bert":
        folder, model = base, BertForSequenceClassification.from_pretrained(base)
        tokens = torch.randint(1, 23, (4, 7), generator=torch.Generator().manual_seed(1))
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        inputs["token_type_ids"] = torch.zeros_like(tokens)
        batch = {field: x.numpy().astype(np.int32) for field, x in inputs.items()}
    else:
        folder, x = tmp_path / "base", images((33, 21, 3))
        stated = ResNetConfig(embedding_size=4, hidden_sizes=[8, 16], depths=[1, 2], num_labels=3)
        settle(
            ResNetForImageClassification(stated), channels_first(x), last=r".*layer\.1\.normalization", gain=0.5
        ).save_pretrained(folder)
        model = ResNetForImageClassification.from_pretrained(folder)
        inputs, batch = {"pixel_values": channels_first(x)}, {"image": x}
    plain = logits(model, inputs)
    torch.manual_seed(2)
    reference = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    reference.save_pretrained(tmp_path / "adapter")
    expected = logits(reference, inputs)
    assert np.abs(expected - plain).max() > 0.1
    ours = load_export(tmp_path / "adapter")
    found = np.asarray(ours.port.apply(ours.params, ours.model_state, batch)[0])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))


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

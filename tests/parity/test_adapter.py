"""Adapters that peft itself wrote: our logits on them are those of peft's own model."""

from __future__ import annotations

import copy
import json

import numpy as np
import peft
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

import jaxfer
from jaxfer.errors import InputError
from jaxfer.exports.predict import load_export, load_model
from jaxfer.rules import flatten, unflatten
from tests.experiments import TOKENIZER, tiny_config

from .reference import channels_first, close, images, settle
from .test_export import BERT, CASES

# Field by field what peft offers and we read; ranks and alphas of one module differ from the others'.
LORA = {
    "resnet": dict(
        r=3,
        lora_alpha=4,
        target_modules=["0.convolution", "1.convolution", "2.convolution", "shortcut.convolution"],
        rank_pattern={"shortcut.convolution": 2},
        alpha_pattern={r"stages\.1\.layers\.0\.layer\.1\.convolution": 7},
        modules_to_save=["classifier"],
    ),
    "vit": dict(
        r=4,
        lora_alpha=6,
        use_rslora=True,
        target_modules=["q_proj", "v_proj", "o_proj", "fc1"],
        rank_pattern={r"layers\.0\.mlp\.fc1": 1},
        alpha_pattern={"fc1": 3, "o_proj": 5},
        modules_to_save=["classifier"],
        bias="none",
        init_lora_weights="gaussian",
    ),
    "deit": dict(r=2, lora_alpha=2, target_modules=["k_proj", "fc2"], modules_to_save=["cls_classifier"]),
}


def adapted(model, folder, seed=0, **config):
    """peft's model, nothing of it zero, saved; a head of three outputs where it is one of the modules to save."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(model, peft.LoraConfig(**config)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(torch.randn(parameter.shape) * parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("case", LORA)
def test_images(case, tmp_path):
    make, config, size = CASES[case]
    config.num_labels = 3
    x = images(size)
    base = settle(make(config), channels_first(x), last=r".*\.(o_proj|fc2)", gain=0.5)
    base.save_pretrained(tmp_path / "base")
    plain = reply(base, x)
    reference = adapted(make.from_pretrained(tmp_path / "base"), tmp_path / "adapter", **LORA[case])
    assert reference.peft_config["default"].base_model_name_or_path == str(tmp_path / "base")
    expected = reply(reference, x)
    assert np.abs(expected - plain).max() > 0.1
    ours = load_export(tmp_path / "adapter")
    found = np.asarray(ours.port.apply(ours.params, ours.model_state, {"image": x})[0])
    close(found, expected)


def reply(model, x):
    with torch.no_grad():
        return model.eval()(channels_first(x)).logits.numpy()


@pytest.mark.parametrize("archive", [False, True], ids=["safetensors", "bin"])
def test_texts_on_a_base_without_a_head(archive, tmp_path):
    """As people do it: a bare encoder, a new head, SEQ_CLS; peft names the head itself.

    That the encoder is one of sentence-transformers', which pools the mean, is nothing to the classifier.
    """
    torch.manual_seed(0)
    config = BertConfig(**BERT, max_position_embeddings=9, initializer_range=0.5)
    BertForSequenceClassification(config).bert.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "1_Pooling").mkdir()
    (tmp_path / "base" / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    base = BertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    lora = dict(task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules=["query", "value", "dense"], lora_dropout=0.3)
    reference = adapted(base, tmp_path / "adapter", **lora)
    if archive:
        tensors = peft.get_peft_model_state_dict(reference)
        torch.save(tensors, tmp_path / "adapter" / "adapter_model.bin")
        (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    phrases = ["very film a good.", "was bad films"]
    batch = AutoTokenizer.from_pretrained(TOKENIZER)(phrases, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = reference(**batch).logits
    answers = jaxfer.predict(tmp_path / "adapter", phrases, text=True)
    for answer, row in zip(answers, expected.softmax(-1), strict=True):
        named = {f"LABEL_{i}": float(chance) for i, chance in enumerate(row)}
        assert answer.probabilities == pytest.approx(named, abs=1e-4)
    model = load_export(tmp_path / "adapter")
    found = np.asarray(model.port.apply(model.params, {}, {name: x.numpy() for name, x in batch.items()})[0])
    close(found, expected.numpy())


def test_gpt2_has_weights_of_the_other_order_and_three_in_one(tmp_path):
    """transformers' `Conv1D`: an adapter of peft in, and one of ours out."""
    torch.manual_seed(0)
    config = GPT2Config(
        **dict(vocab_size=BERT["vocab_size"], n_embd=12, n_layer=2, n_head=3, n_positions=9, pad_token_id=0),
        **dict(bos_token_id=None, eos_token_id=None, initializer_range=0.5, num_labels=3),
    )
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(tmp_path / "base")
    phrases = ["very film a good.", "was bad films"]
    tokens = AutoTokenizer.from_pretrained(TOKENIZER)(phrases, padding=True, return_tensors="pt")
    batch = {name: x.numpy() for name, x in tokens.items()}
    tokens.pop("token_type_ids")

    def base():
        return GPT2ForSequenceClassification.from_pretrained(tmp_path / "base")

    def expected(model):
        with torch.no_grad():
            return model(**tokens).logits.numpy()

    def found(model):
        return np.asarray(model.port.apply(model.params, {}, batch)[0])

    lora = dict(task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules=["c_attn", "c_proj", "c_fc"])
    reference = adapted(base(), tmp_path / "theirs", **lora, fan_in_fan_out=True)
    close(found(load_export(tmp_path / "theirs")), expected(reference))
    run = tiny_config("bert_pooler", steps=2, init=str(tmp_path / "base"), method="lora", lr=1e-2)
    run.model = dict(name="auto", max_length=9)
    jaxfer.run(run, tmp_path / "run", quiet=True)
    ours = jaxfer.export(tmp_path / "run", format="peft")
    stated = json.loads((ours / "adapter_config.json").read_text())
    attention = {f"transformer.h.{i}.attn.c_attn": 3 * stated["r"] for i in range(2)}
    assert stated["fan_in_fan_out"] and stated["rank_pattern"] == attention
    model = peft.PeftModel.from_pretrained(base(), str(ours)).eval()
    close(found(load_model(tmp_path / "run")), expected(model))
    close(found(load_export(ours)), expected(model))
    close(found(load_export(ours)), expected(model.merge_and_unload()))


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1.5, -0.5)])
def test_a_weighted_sum_of_two(weights, tmp_path):
    """peft's `cat`; its `linear` mixes factors and is another function."""
    torch.manual_seed(0)
    config = BertConfig(**BERT, max_position_embeddings=9, initializer_range=0.5, num_labels=3)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "base")
    loras = {
        "a": dict(r=2, lora_alpha=6, target_modules=["query", "value"]),
        "b": dict(r=3, lora_alpha=2, use_rslora=True, target_modules=["query", "value"]),
    }
    for seed, (name, lora) in enumerate(loras.items()):
        base = BertForSequenceClassification.from_pretrained(tmp_path / "base")
        adapted(base, tmp_path / name, seed, **lora)
    base = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "a", adapter_name="a")
    theirs.load_adapter(tmp_path / "b", adapter_name="b")
    theirs.add_weighted_adapter(["a", "b"], list(weights), "both", combination_type="cat")
    held = jaxfer.adapters({"a": tmp_path / "a", "b": tmp_path / "b"})
    ids = torch.randint(1, 23, (4, 7), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    batch = {field: x.numpy().astype(np.int32) for field, x in inputs.items()}
    models = {
        **{name: held.switch(name) for name in "ab"},
        "both": held.weighted(dict(zip("ab", weights, strict=True))),
    }
    for name, model in models.items():
        theirs.set_adapter(name)
        with torch.no_grad():
            expected = theirs.eval()(**inputs).logits.numpy()
        close(np.asarray(model.network(batch).outputs), expected)


HELD = {
    "loha": (peft.LoHaConfig(r=2, alpha=3), "added"),
    "vera": (peft.VeraConfig(r=5, save_projection=False), "added"),
    "convolved": (peft.LoraConfig(r=2, lora_alpha=3), "added"),
    "dora": (peft.LoraConfig(r=2, lora_alpha=3, use_dora=True), "replaced"),
    "ia3": (peft.IA3Config(feedforward_modules=[]), "replaced"),
    "oft": (peft.OFTConfig(oft_block_size=4), "replaced"),
    "biases": (peft.LoraConfig(r=2, lora_alpha=3, bias="lora_only"), "replaced"),
}


@pytest.mark.parametrize("case", ["vit", "resnet"])
def test_several_that_are_no_lora_of_dense_layers(case, tmp_path):
    """Each is peft's model; what adds to kernels has sums and stacks, and the rest says what it has not."""
    make, config, size = CASES[case]
    config.num_labels, x, kinds = 3, images(size), {}
    settle(make(config), channels_first(x), last=r".*\.(o_proj|fc2)", gain=0.5).save_pretrained(tmp_path / "base")
    targets = r".*(q_proj|fc1)" if case == "vit" else r".*stages.*\.1\.convolution"
    expected, folders = {}, {}
    for name, (given, kind) in HELD.items():
        if name in (("convolved",) if case == "vit" else ("vera", "oft", "biases")):
            continue
        given, kinds[name] = copy.deepcopy(given), kind
        given.target_modules = targets
        torch.manual_seed(len(name))
        reference = peft.get_peft_model(make.from_pretrained(tmp_path / "base"), given).eval()
        with torch.no_grad():
            for parameter in reference.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn(parameter.shape))
        reference.save_pretrained(tmp_path / name)
        expected[name], folders[name] = reply(reference, x), tmp_path / name
    held = jaxfer.adapters(folders)
    assert {name: one.kind for name, one in held.each.items()} == kinds
    summed = [name for name, kind in kinds.items() if kind == "added"]
    plain = reply(make.from_pretrained(tmp_path / "base"), x)

    def found(model):
        return np.asarray(model.network({"image": x}).outputs)

    for name, wanted in expected.items():
        assert np.abs(wanted - plain).max() > 0.01
        close(found(held.switch(name)), wanted)
        close(found(held.stacked([name])), wanted)
    first, second = summed[:2]
    close(found(held.weighted({first: 1, second: 0})), expected[first])
    close(found(held.weighted({first: 0.5, second: 0.0})), found(held.weighted({first: 0.25 * 2})))
    # Its sum by hand: kernels of both merged models, less the base's.
    ours = {name: load_export(folders[name]) for name in (first, second)}
    backbone, port = {**held.backbone, **held.each[first].head}, held.each[first].model.port
    merged = {name: flatten(ours[name].params) for name in ours}
    both = {
        path: 0.7 * merged[first][path] - 0.5 * merged[second][path] + 0.8 * leaf for path, leaf in backbone.items()
    }
    wanted = port.apply(unflatten({**both, **held.each[first].head}), held.model_state, {"image": x})[0]
    close(found(held.weighted({first: 0.7, second: -0.5})), np.asarray(wanted))
    close(found(held.stacked([first, second])), found(held.weighted({first: 1, second: 1})))
    with pytest.raises(InputError, match="ia3: held as the weights that the adapter makes, which have no sum; switch"):
        held.weighted({"ia3": 1})
    with pytest.raises(InputError, match="dora: held as the weights that the adapter makes of its base, which nothing"):
        held.stacked([first, "dora"])


def test_running_statistics_of_its_own_are_not_shared(tmp_path):
    make, config, size = CASES["resnet"]
    x = images(size)
    settle(make(config), channels_first(x), last=r"none", gain=0.5).save_pretrained(tmp_path / "base")
    norms = peft.LNTuningConfig(target_modules=r".*normalization")
    reference = peft.get_peft_model(make.from_pretrained(tmp_path / "base"), norms).train()
    with torch.no_grad():
        reference(channels_first(x))
    reference.save_pretrained(tmp_path / "norms")
    with pytest.raises(InputError, match="it has running statistics of its own .*; predict with it alone"):
        jaxfer.adapters({"norms": tmp_path / "norms"})

"""What we write, transformers and peft load: no key missing or left over, and the same logits."""

from __future__ import annotations

import numpy as np
import peft
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    MobileNetV1Config,
    MobileNetV1ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

import jaxfer
from jaxfer.data.encodings.image import fit, normalize
from jaxfer.errors import InputError
from jaxfer.exports.predict import load_model
from jaxfer.rules import flatten
from tests.experiments import TOKENIZER, tiny_config
from tests.pretrained.checkpoints import config_of

from .reference import channels_first, close, compare, images, settle

VIT = dict(hidden_size=12, num_attention_heads=3, num_hidden_layers=2, intermediate_size=20, patch_size=4)
CASES = {
    "resnet": (
        ResNetForImageClassification,
        ResNetConfig(embedding_size=4, hidden_sizes=[16, 32], depths=[1, 2], layer_type="bottleneck"),
        (224, 224, 3),
    ),
    "mobilenet_v1": (
        MobileNetV1ForImageClassification,
        MobileNetV1Config(depth_multiplier=0.25, image_size=32),
        (32, 32, 3),
    ),
    "vit": (ViTForImageClassification, ViTConfig(**VIT, image_size=[8, 12]), (8, 12, 3)),
    "deit": (DeiTForImageClassificationWithTeacher, DeiTConfig(**VIT, image_size=8), (8, 8, 3)),
}
BERT = dict(vocab_size=23, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20)


@pytest.fixture
def trained(tmp_path):
    """(family, method) -> the folder of a run that began with their model, saved by them."""

    def train(case, method, **fields):
        make, config, size = CASES[case]
        config.num_labels = 5
        x = images(size)
        settle(make(config), channels_first(x), last=r".*\.(o_proj|fc2)", gain=0.5).save_pretrained(tmp_path / "theirs")
        jaxfer.run(
            config_of(tmp_path / "theirs", size, method=method, steps=2, lr=1e-2, **fields),
            tmp_path / "run",
            quiet=True,
        )
        return tmp_path / "run", size

    return train


def ours(run, batch):
    model = load_model(run)
    return np.asarray(model.port.apply(model.params, model.model_state, batch)[0])


def theirs(model, x):
    with torch.no_grad():
        return model.eval()(channels_first(x)).logits.numpy()


def loaded(auto, folder):
    model, report = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), (
        report
    )
    return model


@pytest.mark.parametrize(
    ("case", "method"),
    [(case, "full") for case in CASES]
    # What is merged is loaded alike.
    + [pytest.param(case, "lora", marks=() if case == "vit" else pytest.mark.rest) for case in CASES],
)
def test_transformers_loads_an_export(case, method, trained):
    run, size = trained(case, method)
    out, x = jaxfer.export(run), images(size, seed=1)
    model = loaded(AutoModelForImageClassification, out)
    assert model.config.id2label == {0: "class_0", 1: "class_1", 2: "class_2"}
    compare({"logits": ours(run, {"image": x})}, {"logits": theirs(model, x)}, scaled=False)


@pytest.mark.parametrize("case", CASES)
def test_their_processor_prepares_what_ours_does(case, trained):
    run, size = trained(case, "probe")
    processor = AutoImageProcessor.from_pretrained(jaxfer.export(run), use_fast=False)
    pixels = np.random.default_rng(0).integers(0, 256, (37, 29, 3)).astype(np.uint8)
    spec = load_model(run).port.encoding
    expected = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    found = normalize(fit(pixels, spec), spec)
    assert np.abs(found - expected.transpose(1, 2, 0)).max() <= 1 / 255 / min(spec.std)


def test_peft_has_no_word_for_padding_that_asks_a_convolution(trained):
    run, _ = trained("mobilenet_v1", "lora")
    with pytest.raises(InputError, match="peft can't wrap the convolutions of a padded mobilenet_v1"):
        jaxfer.export(run, format="peft")


LOW_RANK = dict(rank=2, alpha=6.0)
ADAPTERS = [
    *((case, "lora", LOW_RANK) for case in ("resnet", "vit", "deit")),
    *((case, method, LOW_RANK) for case in ("resnet", "vit") for method in ("dora", "loha")),
    *((case, "ia3", {}) for case in ("resnet", "vit")),
    *(
        ("vit", method, options)
        for method, options in (
            ("lora", {**LOW_RANK, "scaling": "rank_stabilised"}),
            ("vera", {"rank": 5}),
            ("oft", {"block": 4}),
            ("oft", {"block": 4, "neumann": 5}),
            ("norm_tuning", {}),
            ("lokr", LOW_RANK),
        )
    ),
    ("resnet", "norm_tuning", {}),
    ("resnet", "lokr", LOW_RANK),
    ("resnet", "oft", {"block": 4, "targets": (r".*/conv_[13]/kernel",)}),
]
# As LoRA of the least rank at which that is exact: the product of two of rank 2 has 4 at most, other changes all.
CONVERTED = [
    ("resnet", "loha", LOW_RANK, 4),
    ("vit", "loha", LOW_RANK, 4),
    ("vit", "oft", {"block": 4}, 32),
    ("vit", "vera", {"rank": 5}, 5),
    ("vit", "lokr", LOW_RANK, 32),
]


# What another of them shows too.
ALIKE = {("deit", "lora"), ("resnet", "loha"), ("resnet", "ia3")}


@pytest.mark.parametrize(
    ("case", "method", "options", "rank"),
    [
        pytest.param(*adapter, marks=[pytest.mark.rest] if adapter[:2] in ALIKE else [])
        for adapter in (*((*adapter, None) for adapter in ADAPTERS), *CONVERTED)
    ],
)
def test_peft_loads_an_adapter(case, method, options, rank, trained):
    run, size = trained(case, method, options=options)
    out, x = jaxfer.export(run, format="peft", as_lora=rank), images(size, seed=1)
    base = AutoModelForImageClassification.from_pretrained(
        run.parent / "theirs", num_labels=3, ignore_mismatched_sizes=True
    )
    model = peft.PeftModel.from_pretrained(base, str(out))
    expected = ours(run, {"image": x})
    close(theirs(model, x), expected)
    # peft can't merge the other kinds beside a head of several modules.
    if case != "resnet" or rank or method in ("lora", "dora"):
        merged = theirs(model.merge_and_unload(), x)
        close(merged, expected)
    again = load_model(out)
    found = np.asarray(again.port.apply(again.params, again.model_state, {"image": x})[0])
    close(found, expected)


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_sets_of_labels_and_real_targets(task, tmp_path):
    """Their loss of our labels is ours: `problem_type` and the number of outputs mean the same to both."""
    rows = [("very film a good.", "fun;short", 0.5), ("was bad films", "", -1.25), ("plain songs", "short;dull", 2.0)]
    lines = ["text\tlabel", *(f"{text}\t{named if task == 'multilabel' else value}" for text, named, value in rows)]
    for split in ("train", "val"):
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    torch.manual_seed(0)
    config = BertConfig(**BERT, max_position_embeddings=9, initializer_range=0.5)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "theirs")
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(tmp_path / "theirs")
    run = tiny_config("bert_pooler", steps=2, init=str(tmp_path / "theirs"), method="probe", lr=0.1, batch_size=3)
    run.model, run.task = dict(name="auto"), dict(name=task)
    run.data = dict(source="table", path=str(tmp_path), target="labels" if task == "multilabel" else "value")
    result = jaxfer.run(run, tmp_path / "run", quiet=True)
    out = jaxfer.export(tmp_path / "run")
    model, tokenizer = loaded(AutoModelForSequenceClassification, out), AutoTokenizer.from_pretrained(out)
    names = tuple(model.config.id2label.values())
    sets = [[name in named.split(";") for name in names] for _, named, _ in rows]
    wanted = torch.tensor(sets if task == "multilabel" else [value for *_, value in rows], dtype=torch.float32)
    phrases = [text for text, *_ in rows]
    batch = tokenizer(phrases, padding=True, truncation=True, max_length=9, return_tensors="pt")
    with torch.no_grad():
        expected = model.eval()(**batch, labels=wanted)
    problem, known = {
        "multilabel": ("multi_label_classification", ("dull", "fun", "short")),
        "regression": ("regression", ("LABEL_0",)),
    }[task]
    assert (model.config.problem_type, names) == (problem, known)
    assert float(expected.loss) == pytest.approx(result["metrics"]["val"]["loss"], rel=1e-4)
    found = ours(tmp_path / "run", {name: value.numpy() for name, value in batch.items()})
    compare({"logits": found}, {"logits": expected.logits.numpy()}, scaled=False)
    for answer, row in zip(jaxfer.predict(out, phrases, text=True), expected.logits.numpy(), strict=True):
        if task == "regression":
            assert answer.value == pytest.approx(row[0], abs=1e-4)
        else:
            chances = dict(zip(names, 1 / (1 + np.exp(-row)), strict=True))
            assert answer.probabilities == pytest.approx(chances, abs=1e-4)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_text_model_and_its_tokenizer(method, tmp_path):
    torch.manual_seed(0)
    config = BertConfig(**BERT, max_position_embeddings=9, num_labels=5, initializer_range=0.5)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "theirs")
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(tmp_path / "theirs")
    run = tiny_config("bert_pooler", steps=2, init=str(tmp_path / "theirs"), method=method, lr=1e-2)
    run.model = dict(name="auto")
    jaxfer.run(run, tmp_path / "run", quiet=True)
    out = jaxfer.export(tmp_path / "run")
    model, tokenizer = loaded(AutoModelForSequenceClassification, out), AutoTokenizer.from_pretrained(out)
    phrases = ["very film a good.", "was bad films"]
    batch = tokenizer(phrases, padding=True, truncation=True, max_length=9, return_tensors="pt")
    with torch.no_grad():
        expected = model.eval()(**batch).logits
    found = ours(tmp_path / "run", {name: value.numpy() for name, value in batch.items()})
    compare({"logits": found}, {"logits": expected.numpy()}, scaled=False)
    for answer, row in zip(jaxfer.predict(out, phrases, text=True), expected.softmax(-1), strict=True):
        named = {model.config.id2label[i]: float(chance) for i, chance in enumerate(row)}
        assert answer.probabilities == pytest.approx(named, abs=1e-4)


OF_TEXTS = {
    "lora": LOW_RANK,
    "dora": LOW_RANK,
    "vera": {"rank": 5},
    "ia3": {},
    "oft": {"block": 4},
    "loha": LOW_RANK,
    "lokr": LOW_RANK,
    "norm_tuning": {},
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert") / "theirs"
    torch.manual_seed(0)
    config = BertConfig(**BERT, max_position_embeddings=9, num_labels=5, initializer_range=0.5)
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", OF_TEXTS)
def test_peft_loads_an_adapter_of_a_text_model(method, bert, tmp_path):
    options = OF_TEXTS[method]
    run = tiny_config("bert_pooler", steps=2, init=str(bert), method=method, lr=5e-2, options=options)
    run.model = dict(name="auto")
    jaxfer.run(run, tmp_path / "run", quiet=True)
    out, tokenizer = jaxfer.export(tmp_path / "run", format="peft"), AutoTokenizer.from_pretrained(bert)
    phrases = ["very film a good.", "was bad films"]
    batch = tokenizer(phrases, padding=True, truncation=True, max_length=9, return_tensors="pt")
    rows = {name: value.numpy() for name, value in batch.items()}
    found = ours(tmp_path / "run", rows)
    base = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=3, ignore_mismatched_sizes=True)
    model = peft.PeftModel.from_pretrained(base, str(out)).eval()
    with torch.no_grad():
        close(found, model(**batch).logits.numpy())
    again, before = load_model(out), flatten(load_model(bert).params)
    close(np.asarray(again.port.apply(again.params, {}, rows)[0]), found)
    moved = {path: np.abs(leaf - before[path]).max() for path, leaf in flatten(again.params).items() if "block" in path}
    assert max(moved.values()) > 1e-3


def test_windows_that_peft_would_turn_whole(trained):
    run, _ = trained("resnet", "oft", options={"block": 4, "targets": (r".*/conv_2/kernel",)})
    with pytest.raises(InputError, match="is a convolution of 3 x 3, whose whole windows peft turns, which peft can't"):
        jaxfer.export(run, format="peft")

"""Successors of BERT: heads at every token, sentence-transformers' folders, peft's adapters, files in other forms."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jax
import numpy as np
import peft
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

import jaxfer
from jaxfer.exports.predict import load_export, load_model
from jaxfer.models.transformer import Relative, _buckets
from jaxfer.pretrained import carrying, foreign, located
from jaxfer.pretrained.families import by_family
from jaxfer.registry import MODELS
from jaxfer.rules import flatten
from tests.experiments import TOKENIZER, tiny_config

from .families import Case
from .reference import answers, compare, drawn, ours, saved, unit_outputs
from .test_adapter import adapted
from .test_export import BERT, loaded

SIZES = dict(**BERT, max_position_embeddings=11, initializer_range=0.5)
DISTIL = dict(
    vocab_size=23, dim=12, n_layers=2, n_heads=3, hidden_dim=20, max_position_embeddings=11, initializer_range=0.5
)
MODERN = dict(
    **dict(vocab_size=23, hidden_size=12, num_hidden_layers=3, num_attention_heads=3, intermediate_size=20),
    **dict(max_position_embeddings=11, local_attention=4, initializer_range=0.5),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
)
DEBERTA = dict(
    **{**SIZES, "type_vocab_size": 0},
    **dict(relative_attention=True, pos_att_type="p2c|c2p", position_buckets=4, share_att_key=True),
    **dict(norm_rel_ebd="layer_norm", position_biased_input=False),
)
# {family: (transformers' name in front of Config and For..., settings)}
FAMILIES = {
    "bert": ("Bert", SIZES),
    "distilbert": ("DistilBert", DISTIL),
    "roberta": ("Roberta", dict(SIZES, type_vocab_size=1)),
    "xlm-roberta": ("XLMRoberta", dict(SIZES, type_vocab_size=1)),
    "camembert": ("Camembert", dict(SIZES, type_vocab_size=1)),
    "electra": ("Electra", dict(SIZES, embedding_size=7)),
    "mpnet": ("MPNet", SIZES),
    "albert": ("Albert", dict(SIZES, embedding_size=7)),
    "modernbert": ("ModernBert", MODERN),
    "deberta": ("DebertaV2", DEBERTA),
    "deberta_lm": ("DebertaV2", dict(DEBERTA, legacy=False)),
}
# {family: modules that adapters of peft are put on}
TARGETS = {
    "roberta": ["query", "value"],
    "modernbert": ["Wqkv", "Wo", "Wi"],
    "deberta": ["query_proj", "value_proj", "dense"],
}
PHRASES = ["very film a good.", "was bad films", "a plain it songs films ! and more of it than six", "good"]


def made(family, suffix, **more):
    name, settings = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**{**settings, **more})
    return getattr(transformers, f"{name}{suffix}")(config)


def of(family):
    return "roberta" if family in ("xlm-roberta", "camembert") else family.removesuffix("_lm")


def phrases_tokenizer(family, folder):
    """The phrases' tokenizer, its padding at the place where the family expects it."""
    names = Path(TOKENIZER, "vocab.txt").read_text().split("\n")
    if of(family) in ("roberta", "mpnet"):
        names[0], names[1] = names[1], names[0]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(names))
    (folder / "tokenizer_config.json").write_text(Path(TOKENIZER, "tokenizer_config.json").read_text())
    transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def some(cases, first):
    """The cases; those that are not among `first` are left to the make targets."""
    return [case if case in first else pytest.param(case, marks=pytest.mark.rest) for case in cases]


@pytest.mark.parametrize("activation", ["gelu", pytest.param("relu", marks=pytest.mark.rest)])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_the_vocabulary(family, activation, tmp_path):
    """RoBERTa's, MPNet's and ELECTRA's head has its own activation, the others' that of the blocks."""
    named = {{"distilbert": "activation", "modernbert": "hidden_activation"}.get(family, "hidden_act"): activation}
    case = Case(layout=(of(family), "hf"), make=lambda: made(family, "ForMaskedLM", **named))
    check(case, "vocab", 23, tmp_path)


@pytest.mark.parametrize("family", some(FAMILIES, ("roberta", "distilbert", "deberta")))
def test_outputs_at_every_token(family, tmp_path):
    case = Case(layout=(of(family), "hf"), make=lambda: made(family, "ForTokenClassification", num_labels=5))
    check(case, "token", 5, tmp_path)


def check(case, head, outputs, folder):
    model, batch = drawn(case)
    port = ours(by_family(*case.layout), model.config.to_dict(), saved(model, folder), outputs, head=head)
    found, expected = unit_outputs(*port, batch)["logits"], answers(case, model, batch)["logits"]
    mask = batch["attention_mask"][..., None]
    compare({"logits": found * mask}, {"logits": expected * mask})


def test_distances_share_the_buckets_of_the_reference():
    distance = torch.arange(-600, 601)
    np.testing.assert_array_equal(_buckets(601, Relative()), MPNetEncoder.relative_position_bucket(distance))


@pytest.mark.parametrize(
    "family,pool",
    [("roberta", "mean"), ("electra", "max"), ("modernbert", "cls"), ("deberta", "weightedmean")]
    + [pytest.param(family, "mean", marks=pytest.mark.rest) for family in ("mpnet", "albert", "modernbert", "deberta")]
    + [pytest.param("distilbert", "cls", marks=pytest.mark.rest)],
)
def test_a_folder_of_sentence_transformers(family, pool, tmp_path):
    """As all-mpnet-base-v2's: the mean, scaled to length 1."""
    torch.manual_seed(0)
    made(family, "Model").save_pretrained(tmp_path / "encoder")
    tokenizer = phrases_tokenizer(family, tmp_path / "encoder")
    encoder = modules.Transformer(str(tmp_path / "encoder"), max_seq_length=6)
    chain = [encoder, modules.Pooling(12, pooling_mode=pool), modules.Normalize()]
    reference = SentenceTransformer(modules=chain, device="cpu")
    reference.save_pretrained(str(tmp_path / "theirs"))
    found = foreign.opened(str(tmp_path / "theirs"), "auto", {})
    assert (found.layout.family, found.options["pool"], found.options["max_length"]) == (family, pool, 6)
    port = MODELS.make(family, outputs=12, head="embedding", **{**found.options, "normalize": True})
    shapes = flatten({"params": jax.eval_shape(port.init, jax.random.key(0), port.example(2))[0]})
    params = carrying.carry(found, port, shapes, reset=[], differs=[]).params
    batch = tokenizer(
        PHRASES, padding=True, truncation=True, max_length=6, return_tensors="np", return_token_type_ids=True
    )
    embedding = np.asarray(port.apply(params, {}, dict(batch))[0])
    compare({"embedding": embedding}, {"embedding": reference.encode(PHRASES)}, scaled=False)


@pytest.mark.parametrize(
    "family", some(["roberta", "mpnet", "albert", "modernbert", "deberta"], ("modernbert", "roberta"))
)
def test_an_export_for_sentence_transformers(family, tmp_path):
    torch.manual_seed(0)
    made(family, "Model").save_pretrained(tmp_path / "theirs")
    phrases_tokenizer(family, tmp_path / "theirs")
    run = tiny_config("bert_mean", steps=2, init=str(tmp_path / "theirs"), lr=1e-2, method="probe")
    run.model, run.differs = dict(name="auto", pool="mean", max_length=6), ("pool",)
    jaxfer.run(run, tmp_path / "run", quiet=True)
    out = jaxfer.export(tmp_path / "run", format="sentence-transformers")
    loaded(transformers.AutoModel, out)
    for model in (load_model(tmp_path / "run"), load_model(out)):
        batch = transformers.AutoTokenizer.from_pretrained(out)(
            PHRASES, padding=True, truncation=True, max_length=6, return_tensors="np", return_token_type_ids=True
        )
        logits = np.asarray(model.port.apply(model.params, {}, dict(batch))[0])
        compare(
            {"logits": logits}, {"logits": SentenceTransformer(str(out), device="cpu").encode(PHRASES)}, scaled=False
        )


@pytest.mark.parametrize(
    "family,base", [("roberta", "Model"), *((family, "ForSequenceClassification") for family in TARGETS)]
)
def test_an_adapter_of_peft(family, base, tmp_path):
    """Task SEQ_CLS: peft itself names the head, which is a layer more than BERT's.

    On a bare ModernBERT or DeBERTa it leaves out layers of the head that nobody else has.
    """
    torch.manual_seed(0)
    made(family, base).save_pretrained(tmp_path / "base")
    tokenizer = phrases_tokenizer(family, tmp_path / "base")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=3, **({"ignore_mismatched_sizes": True} if base != "Model" else {})
    )
    lora = dict(task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules=TARGETS[family])
    reference = adapted(model, tmp_path / "adapter", **lora)
    batch = tokenizer(PHRASES, padding=True, truncation=True, max_length=9, return_tensors="pt")
    with torch.no_grad():
        expected = reference(**batch).logits
    found = load_export(tmp_path / "adapter")
    fields = {name: x.numpy() for name, x in batch.items()}
    logits = np.asarray(found.port.apply(found.params, {}, {"token_type_ids": 0 * fields["input_ids"], **fields})[0])
    compare({"logits": logits}, {"logits": expected.numpy()}, scaled=False)


@pytest.mark.parametrize("base", [pytest.param("Model", marks=pytest.mark.rest), "ForSequenceClassification"])
@pytest.mark.parametrize("family", some(["roberta", "distilbert", "electra", "modernbert", "deberta"], ("deberta",)))
def test_peft_reads_an_export(family, base, tmp_path):
    """With all layers of the head that the adapter's base lacks."""
    torch.manual_seed(0)
    made(family, base).save_pretrained(tmp_path / "theirs")
    phrases_tokenizer(family, tmp_path / "theirs")
    run = tiny_config("bert_pooler", steps=2, init=str(tmp_path / "theirs"), method="lora", lr=1e-2)
    run.model, run.differs = dict(name="auto", pool="pooler", max_length=9), ("pool",) * (base == "Model")
    jaxfer.run(run, tmp_path / "run", quiet=True)
    adapter = jaxfer.export(tmp_path / "run", format="peft")
    stated = json.loads((adapter / "adapter_config.json").read_text())
    first = {"deberta": ["pooler.dense"], "modernbert": ["head.dense", "head.norm"]}.get(family, [])
    first = first * (base == "Model") + ["pre_classifier"] * (family == "distilbert")
    assert stated["modules_to_save"] == ["classifier", *first]
    torch.manual_seed(1)  # what the base lacks is drawn anew
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "theirs", num_labels=3, ignore_mismatched_sizes=True
    )
    batch = transformers.AutoTokenizer.from_pretrained(adapter)(
        PHRASES, padding=True, truncation=True, max_length=9, return_tensors="pt"
    )
    theirs = peft.PeftModel.from_pretrained(model, str(adapter)).eval()
    with torch.no_grad():
        expected = {
            "loaded": theirs(**batch).logits.numpy(),
            "merged": theirs.merge_and_unload()(**batch).logits.numpy(),
        }
    for found in (load_model(tmp_path / "run"), load_export(adapter)):
        logits = np.asarray(found.port.apply(found.params, {}, {name: x.numpy() for name, x in batch.items()})[0])
        compare(dict.fromkeys(expected, logits), expected, scaled=False)


@pytest.mark.parametrize("kind", some(["roberta", "xlm-roberta", "camembert"], ("camembert",)))
def test_an_export_keeps_the_name_it_came_under(kind, tmp_path):
    torch.manual_seed(0)
    made(kind, "ForSequenceClassification").save_pretrained(tmp_path / "theirs")
    phrases_tokenizer(kind, tmp_path / "theirs")
    run = tiny_config("bert_pooler", steps=1, init=str(tmp_path / "theirs"), method="probe", lr=1e-2)
    run.model = dict(name="auto")
    jaxfer.run(run, tmp_path / "run", quiet=True)
    model = loaded(transformers.AutoModelForSequenceClassification, jaxfer.export(tmp_path / "run"))
    name = FAMILIES[kind][0]
    assert model.config.model_type == kind and type(model).__name__ == f"{name}ForSequenceClassification"


def test_half_precision_in_shards(tmp_path):
    torch.manual_seed(0)
    model = made("roberta", "ForSequenceClassification").half()
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="2KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) >= 2
    read = functools.partial(foreign.opened, name="auto", model_options={})
    one, many = (located.weights(read(str(tmp_path / name)).files) for name in ("one", "many"))
    assert one.keys() == many.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert one[key].dtype == np.float16
        np.testing.assert_array_equal(one[key], tensor.numpy())
        np.testing.assert_array_equal(many[key], tensor.numpy())

"""What config.json states holds without a `model_type`; heads of other tasks stay out; what was assumed is said."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

import jaxfer
from jaxfer.commands import main
from jaxfer.errors import InputError
from jaxfer.pretrained import foreign, stated
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.layout import store
from jaxfer.registry import MODELS
from jaxfer.sweeps.cells import Cell, address
from jaxfer.training.preflight import preflight
from tests.experiments import TOKENIZER
from tests.models.tiny import TINY, draw
from tests.pretrained.checkpoints import (
    MOBILENET,
    RESNET,
    VIT,
    begin,
    checkpoint,
    config_of,
    edit,
    text_config,
    weights,
)
from tests.pretrained.torch_archives import new_archive, tensor

BERT = {name: value for name, value in TINY["bert_pooler"][1].items() if name != "outputs"}
BOTTLENECK = dict(stage_sizes=(1, 1), width=4, block="bottleneck", stride_in_1x1=True, image=(16, 12, 3))


@pytest.mark.parametrize(
    "family, options, given",
    [
        ("bert", {**BERT, "activation": "relu", "epsilon": 1e-2, "dropout": 0.3}, {}),
        ("vit", {**VIT, "epsilon": 1e-3}, {}),
        ("resnet", BOTTLENECK, {}),
        ("mobilenet_v1", {**MOBILENET, "tf_padding": False, "epsilon": 1e-2, "image": (18, 16, 3)}, {}),
    ],
)
@pytest.mark.parametrize("by", ["name", "architectures"])
def test_facts_hold_without_a_model_type(tmp_path, family, options, given, by):
    """The whole of what the same file with `model_type` gives, and nothing of it is free or reported as assumed."""
    folder = tmp_path / "source"
    if family == "bert":
        shutil.copytree(TOKENIZER, folder)
    checkpoint(folder, family, options)
    known = foreign.opened(str(folder), "auto", {})
    edit(folder / "config.json", model_type=None, **({"architectures": None} if by == "name" else {}))
    found = foreign.opened(str(folder), family if by == "name" else "auto", given)
    assert found.options == known.options
    assert found.soft <= {"pool"} and not known.soft
    assert not found.notes or found.notes == (
        f"{folder}: no file states pool='pooler'; assuming these, override with config.model.NAME",
    )


def test_a_stated_fact_is_not_free_and_an_absent_one_is(tmp_path):
    shutil.copytree(TOKENIZER, tmp_path / "bert")
    checkpoint(tmp_path / "bert", "bert", {**BERT, "epsilon": 1e-2})
    edit(tmp_path / "bert" / "config.json", model_type=None, hidden_act=None)
    config = text_config(tmp_path / "other")
    config.init, config.differs = str(tmp_path / "bert"), ()
    config.model = dict(name="bert", epsilon=1e-12)
    with pytest.raises(InputError, match="epsilon is 0.01 there, 1e-12 here"):
        preflight(config)
    config.model = dict(name="bert", activation="relu")
    assert dict(preflight(config).experiment.model.options)["activation"] == "relu"


@pytest.mark.parametrize(
    "config, expected",
    [
        ({"model_type": "vit", "architectures": ["BertModel"]}, "vit"),
        ({"architectures": ["BertForMaskedLM"]}, "bert"),
        ({"architectures": ["MobileNetV1ForImageClassification"]}, "mobilenet_v1"),
        ({"architectures": ["DeiTForImageClassificationWithTeacher"]}, "deit"),
        ({"architectures": ["RobertaModel", "ViTModel"]}, "vit"),
        ({"architectures": ["RobertaModel"]}, None),
        ({}, None),
    ],
)
def test_model_type(config, expected):
    layouts = [by_family(family, "hf") for family in ("bert", "mobilenet_v1", "resnet", "vit")]
    assert stated.model_type(config, layouts) == expected


def test_other_architectures_are_refused_whatever_the_name(resnet):
    """A RoBERTa has a BERT's keys and counts positions otherwise: the name in the config is no reason to read it."""
    edit(resnet[0] / "config.json", model_type=None, architectures=["RegNetModel"])
    with pytest.raises(InputError, match=r"states architectures=\['RegNetModel'\], which jaxfer does not read"):
        foreign.opened(str(resnet[0]), "resnet", {})


def test_the_mean_in_place_of_a_pooler_that_is_not_there_is_assumed_and_free(tmp_path):
    config = text_config(tmp_path / "source", differs=())
    tensors = {key: x for key, x in weights(tmp_path / "source").items() if "pooler" not in key and "class" not in key}
    safetensors.numpy.save_file(tensors, tmp_path / "source" / "model.safetensors")
    config.model = dict(name="auto", max_length=7)
    said = f"{tmp_path / 'source'}: no file states pool='mean'; assuming these, override with config.model.NAME"
    assert preflight(config).notes() == (said,)
    config.model.pool = "cls"
    assert preflight(config).notes() == ()
    assert begin(config).params["head"].keys() == {"out"}


@pytest.mark.parametrize(
    "names, expected",
    [
        (["BertForTokenClassification"], "BertForTokenClassification"),
        (["BertForMultipleChoice", "BertModel"], "BertForMultipleChoice"),
        (["BertForSequenceClassification"], None),
        (["DeiTForImageClassificationWithTeacher"], None),
        (["BertForTokenClassification", "BertForSequenceClassification"], None),
        (["BertModel"], None),
        (None, None),
    ],
)
def test_heads_of_other_tasks(names, expected):
    assert stated.other_head({"architectures": names}) == expected


@pytest.mark.parametrize("wrong", ["BertModel", [1], {"a": 1}, True])
def test_architectures_are_names(wrong):
    with pytest.raises(InputError, match="expected architectures to be a list of names"):
        stated.other_head({"architectures": wrong})


def test_a_tagger_is_no_classifier(tmp_path, capsys):
    """Its head has a classifier's keys and shapes, and the data's labels by name."""
    config = text_config(tmp_path / "source", differs=())
    edit(tmp_path / "source" / "config.json", architectures=["BertForTokenClassification"])
    assert main(["predict", str(tmp_path / "source"), "--text", "a film"]) == 2
    said = capsys.readouterr().err
    assert "a BertForTokenClassification, whose head does not label whole inputs; `jaxfer run` trains one" in said
    plan = preflight(config)
    said = "a BertForTokenClassification: its head does not label whole inputs and is not loaded"
    assert plan.notes() == (f"{tmp_path / 'source'} is {said}",)
    entry = begin(config).ledger["params/head/out/kernel"]
    assert (entry["what"], entry["why"]) == (
        "re-initialised",
        "the source's head is that of a BertForTokenClassification",
    )
    config.head = "keep"
    with pytest.raises(InputError, match="whose head does not label whole inputs; set config.head=reset"):
        begin(config)


def test_a_head_for_answers_is_left_out(tmp_path):
    config = text_config(tmp_path / "source")
    tensors = {key: x for key, x in weights(tmp_path / "source").items() if not key.startswith("classifier")}
    tensors |= {"qa_outputs.weight": np.ones((2, 12), np.float32), "qa_outputs.bias": np.ones(2, np.float32)}
    safetensors.numpy.save_file(tensors, tmp_path / "source" / "model.safetensors")
    edit(tmp_path / "source" / "config.json", architectures=["BertForQuestionAnswering"])
    assert begin(config).unused == ("qa_outputs.bias", "qa_outputs.weight")


def test_an_assumed_preprocessing_is_said_once_with_its_options(tmp_path, capsys):
    checkpoint(tmp_path / "source", "vit", VIT)
    (tmp_path / "source" / "preprocessor_config.json").unlink()
    config = config_of(tmp_path / "source", (8, 12, 3), head="reset")
    said = "no file states mean=(0.5,), std=(0.5,), interpolation='bilinear', resize=(); assuming these"
    note = f"note: {tmp_path / 'source'}: {said}, override with config.model.NAME"
    assert str(jaxfer.show(config)[0]).splitlines().count(note) == 1
    jaxfer.run(config, tmp_path / "run")
    assert capsys.readouterr().err.splitlines().count(note) == 1
    assert f"note: {address(Cell(name='a'), config, {}).notes[0]}" == note  # which a sweep says once for all cells
    config.model.mean, config.model.resize = (0.25,), (9, 13)
    (note,) = preflight(config).notes()
    assert "no file states std=(0.5,), interpolation='bilinear'; assuming these" in note
    config.model.std, config.model.interpolation = (0.5,), "bicubic"
    assert preflight(config).notes() == ()


def test_a_stride_that_no_name_tells_is_assumed(tmp_path):
    options = {**BOTTLENECK, "stride_in_1x1": False}
    port, params, state = checkpoint(tmp_path / "source", "resnet", options)
    tensors = store(params, state, by_family("resnet", "torchvision"), port)
    file = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({key: np.asarray(x) for key, x in tensors.items()}, file)
    (note,) = foreign.opened(str(file), "resnet", {"image": (16, 12, 3)}).notes
    assert f"{file}: no file states stride_in_1x1=False, mean=" in note
    config = config_of(file)
    config.model = dict(name="resnet", image=(16, 12, 3), stride_in_1x1=True)
    found = preflight(config)
    assert dict(found.experiment.model.options)["stride_in_1x1"] is True


def test_averaged_weights_beside_those_that_were_read_are_mentioned(tmp_path):
    port = MODELS.make("resnet", outputs=3, **RESNET)
    state = {key: tensor(np.asarray(x)) for key, x in store(*draw(port), by_family("resnet", "hf"), port).items()}
    file = tmp_path / "last.pth"
    file.write_bytes(
        new_archive({"state_dict": state, "state_dict_ema": state, "epoch": 3, "n_averaged": 2, "schema": {}})
    )
    notes = foreign.opened(str(file), "resnet", {}).notes
    pick = "config.init_options.pick=state_dict_ema reads it"
    assert f"{file}: the file also holds state_dict_ema, which was not read; {pick}" in notes
    assert len([note for note in notes if "also holds" in note]) == 1


def test_a_scaling_that_no_head_reads_is_mentioned(tmp_path):
    config = text_config(tmp_path / "source", "mean", differs=())
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    entries = [{"idx": i, "path": path, "type": f"x.{kind}"} for i, (path, kind) in enumerate(kinds)]
    (tmp_path / "source" / "modules.json").write_text(json.dumps(entries))
    (tmp_path / "source" / "1_Pooling").mkdir()
    (tmp_path / "source" / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    (note,) = preflight(config).notes()
    assert note.endswith("but the head reads them unscaled; config.model.normalize=true scales them")
    config.model.normalize = True
    plan = preflight(config)
    assert plan.notes() == () and plan.stages[0].spec.port.options.normalize


@pytest.mark.parametrize("rows", [25, 21])
def test_a_vocabulary_that_was_changed_after_training(rows, tmp_path):
    """The table of tokens has other rows than config.json says; with those there, the tokenizer must have as many."""
    config, file = text_config(tmp_path / "source"), tmp_path / "source" / "model.safetensors"
    tensors, key = dict(weights(tmp_path / "source")), "bert.embeddings.word_embeddings.weight"
    tensors[key] = np.concatenate([tensors[key], tensors[key]])[:rows]
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(
        InputError, match=f"{key} has {rows} rows, config.json states 23 tokens; .* vocab_size to {rows}"
    ):
        begin(config)
    edit(tmp_path / "source" / "config.json", vocab_size=rows)
    if rows > 23:  # padded beyond the tokenizer, as many are
        assert begin(config).params["stem"]["word"]["embedding"].shape == (rows, 12)
    else:
        with pytest.raises(InputError, match=f"expected {rows} tokens, found 23 tokens"):
            begin(config)


def test_a_checkpoint_without_a_tokenizer(tmp_path):
    config = text_config(tmp_path / "source")
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / "source" / name).unlink()
        message = (
            "tokens of a BertTokenizer .* restore its files" if name == "vocab.txt" else "or init to a checkpoint with"
        )
        with pytest.raises(InputError, match=message):
            begin(config)


@pytest.mark.parametrize(
    "stated", [{"image_processor_type": "CLIPImageProcessor"}, {"feature_extractor_type": "Whisper"}]
)
def test_a_processor_of_another_family(stated, tmp_path):
    checkpoint(tmp_path / "source", "resnet", RESNET)
    (tmp_path / "source" / "preprocessor_config.json").write_text(json.dumps(stated))
    with pytest.raises(
        InputError, match=f"is for {next(iter(stated.values()))}; jaxfer reads those for ConvNext, DeiT"
    ):
        begin(config_of(tmp_path / "source"))


def test_a_discriminator_is_no_head_over_words():
    assert next(foreign._left_out("x", "ElectraForPreTraining", False, ())).endswith("and is not loaded")
    assert next(foreign._left_out("x", "BertForPreTraining", False, ())).endswith("loaded by the task masked_lm alone")


def test_what_a_file_states_is_not_assumed(tmp_path):
    """The heads of Google's npz are a shape, its mean follows from the class token that is missing."""
    layout, vit = by_family("vit", "augreg"), dict(VIT, image=(8, 8, 3), pool="mean", epsilon=1e-6)
    port = MODELS.make("vit", outputs=3, **vit)
    np.savez(tmp_path / "weights.npz", **store(*draw(port), layout, port))
    found = foreign.opened(str(tmp_path / "weights.npz"), "vit", {})
    assert found.options["heads"] == 3 and found.options["pool"] == "mean" and found.soft == {"image"}


def test_layers_that_no_pool_explains(tmp_path, monkeypatch):
    """A leaf of the trunk that a checkpoint may lack is not the pool's."""
    from jaxfer.pretrained.families import bert

    config = text_config(tmp_path / "source")
    tensors = {key: x for key, x in weights(tmp_path / "source").items() if not key.endswith("LayerNorm.bias")}
    safetensors.numpy.save_file(tensors, tmp_path / "source" / "model.safetensors")
    layout = bert.LAYOUTS[0]
    monkeypatch.setitem(layout.__dict__, "optional", (*layout.optional, r".*LayerNorm\.bias"))
    with pytest.raises(
        InputError, match="the checkpoint has no params/.*; give one that has it, or set config.model as"
    ):
        begin(config)

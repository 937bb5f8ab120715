"""What a config may say of a checkpoint's model: announced, free, or refused with both values."""

from __future__ import annotations

import shutil

import pytest
from etils import epath
from ml_collections import ConfigDict

import jaxfer
from jaxfer.errors import InputError
from jaxfer.pretrained.agreement import followed
from jaxfer.runs.folder import stored_experiment
from jaxfer.training.preflight import preflight
from tests.experiments import TOKENIZER
from tests.models.tiny import TINY
from tests.pretrained.checkpoints import checkpoint, config_of, edit, text_config


def test_a_contradiction_is_refused_with_both_values(resnet):
    folder, _ = resnet
    with pytest.raises(InputError, match=r"width is 4 there, 8 here.*announce what may differ"):
        preflight(config_of(folder, model=dict(width=8)))
    with pytest.raises(InputError, match=r"mean is \(0.5, 0.25, 0.125\) there, \(0.5,\) here"):
        preflight(config_of(folder, model=dict(mean=(0.5,))))
    with pytest.raises(InputError, match="config.model.name is 'vit' here, config.json .* 'resnet'"):
        config = config_of(folder)
        config.model.name = "vit"
        preflight(config)
    with pytest.raises(InputError, match="unknown field config.model.widht; nearest: 'width'"):
        preflight(config_of(folder, model=dict(widht=8)))
    with pytest.raises(InputError, match="config.differs: .* no option 'imgae'; nearest: 'image'"):
        preflight(config_of(folder, differs=("imgae",)))


def test_what_only_training_sees_is_free_and_announced_statistics_are_taken(resnet):
    folder, _ = resnet
    config = config_of(folder, model=dict(stochastic_depth=0.1, mean=(0.5,)), differs=("mean",))
    found = dict(preflight(config).experiment.model.options)
    assert (found["stochastic_depth"], found["mean"], found["std"]) == (0.1, (0.5,), (0.5, 0.25, 1.0))


def test_auto_needs_a_checkpoint():
    config = config_of("scratch")
    with pytest.raises(InputError, match="config.model.name=auto uses the model of the checkpoint"):
        preflight(config)


def test_overrides_reach_the_model_that_is_not_known_yet(resnet, tmp_path):
    folder, _ = resnet
    file = tmp_path / "c.py"
    file.write_text("import jaxfer.config\n\n\ndef get_config(arg=''):\n    return jaxfer.config.base()\n")
    config = jaxfer.load(
        str(file), {"model.name": "auto", "model.image": "8,8,3", "init": str(folder), "differs": "image"}
    )
    assert dict(preflight(config).experiment.model.options)["image"] == (8, 8, 3)


@pytest.mark.parametrize("stated, expected", [({"shortest_edge": 32}, (16,)), ({"height": 32, "width": 20}, (16, 10))])
def test_another_resolution_cuts_out_the_same_share(resnet, stated, expected):
    folder, _ = resnet
    crop = {"height": 16, "width": 16}
    edit(folder / "preprocessor_config.json", size=stated, do_center_crop=True, crop_size=crop)
    config = config_of(folder, model=dict(image=(8, 8, 3)), differs=("image",))
    plan = preflight(config)
    assert dict(plan.experiment.model.options)["resize"] == expected
    assert preflight(ConfigDict(plan.experiment.to_dict())).experiment == plan.experiment


def test_auto_is_also_the_model_of_a_run(resnet, tmp_path):
    jaxfer.run(config_of(resnet[0]), tmp_path / "run", quiet=True)
    plan = preflight(config_of(f"run:{tmp_path / 'run'}"))
    assert dict(plan.experiment.model.options)["stage_sizes"] == (1, 1)


@pytest.mark.parametrize("init", ["run:{0}/source", "sibling:source"])
def test_what_a_config_leaves_out_is_the_sources(resnet, tmp_path, init):
    """Mean, std and sizes came from the checkpoint's files, and the second config need not know them either."""
    first = config_of(resnet[0], model=dict(stochastic_depth=0.1, mean=(0.5,)), differs=("mean",))
    jaxfer.run(first, tmp_path / "source", quiet=True)
    config = config_of(init.format(tmp_path), head="keep")
    config.model.name = "resnet"
    planned = preflight(config, place=epath.Path(tmp_path / "next")).experiment.model.options
    jaxfer.run(config, tmp_path / "next", quiet=True)
    found, source = (dict(stored_experiment(tmp_path / name).model.options) for name in ("next", "source"))
    assert found.pop("stochastic_depth") == 0.0 and source.pop("stochastic_depth") == 0.1, "only training sees it"
    assert found == source and found["std"] == (0.5, 0.25, 1.0)
    shutil.rmtree(tmp_path / "source")  # needed no more
    again = preflight(config, epath.Path(tmp_path / "next")).experiment.model.options
    assert dict(planned) == dict(again) == {**found, "stochastic_depth": 0.0}


def test_a_sibling_that_is_not_there_yet_is_said(tmp_path):
    config = config_of("sibling:source")
    config.model.name = "resnet"
    note = "config.init=sibling:source isn't there yet: what config.model leaves out will be as in that run"
    assert note in preflight(config, place=epath.Path(tmp_path / "next")).notes()


def test_the_rest_is_the_configs_own():
    whole = {"layers": 3, "tokenizer": "there", "tokenizer_sha256": "a"}
    source = {"name": "bert", "dropout": 0.1, **whole}
    assert followed(source, "auto", {}) == ("bert", {"dropout": 0.1, **whole})
    assert followed(source, "bert", {"layers": 2}) == ("bert", {**whole, "layers": 2})
    own = {"tokenizer": "here", "tokenizer_sha256": "b"}
    assert followed(source, "bert", own) == ("bert", {"layers": 3, **own})
    assert followed(source, "bert", {}, ("layers", "tokenizer")) == ("bert", {})
    assert followed(source, "vit", {"layers": 2}) == ("vit", {"layers": 2})
    table = {"name": "ft_transformer", "numbers": ("age",), "means": (50.0,), "stds": (9.0,), "width": 8}
    assert followed(table, "auto", {}) == followed(table, "ft_transformer", {}) == ("ft_transformer", {"width": 8})
    image = {"name": "vit", "image": (224, 224, 3), "resize": (256,), "mean": (0.2, 0.4, 0.6), "patch": 16}
    for name in ("auto", "vit"):
        found = followed(image, name, {"image": (112, 112, 1)}, ("image",))[1]
        mean = pytest.approx((0.4,))
        assert found == {"image": (112, 112, 1), "resize": (128,), "mean": mean, "patch": 16}, "the same share of it"


def test_how_long_texts_may_be_is_free(tmp_path):
    config = text_config(tmp_path / "source")
    config.model = dict(name="auto", max_length=6, buckets=(4, 6))
    found = preflight(config).stages[0].spec.port.encoding
    assert (found.max_length, found.buckets) == (6, (4, 6))


def test_an_embedding_much_larger_than_its_own_tokenizer(tmp_path):
    """23 tokens for 30 rows: the checkpoint's files say that they belong together; a note says so."""
    folder = tmp_path / "padded"
    shutil.copytree(TOKENIZER, folder)
    options = {name: value for name, value in TINY["bert_pooler"][1].items() if name != "outputs"}
    checkpoint(folder, "bert", {**options, "vocab": 30}, labels=("bad", "good", "plain"))
    config = text_config(tmp_path / "source", differs=())
    config.init, config.model = str(folder), dict(name="auto", max_length=7)
    note = "the tokenizer has 23 tokens, the model's embedding 30 rows: the other rows are never read"
    assert preflight(config).notes() == (note,)
    assert jaxfer.predict(folder, ["a good film"], text=True)[0].error is None
    file = folder / "model.safetensors"
    file.rename(tmp_path / "bare.safetensors")  # nobody states whose tokenizer it is
    config.init = str(tmp_path / "bare.safetensors")
    config.model = dict(name="bert", heads=3, max_length=7, tokenizer=TOKENIZER)
    with pytest.raises(InputError, match="expected 30 tokens, found 23 tokens; .* announce it with config.differs=to"):
        preflight(config)
    config.differs = ("tokenizer",)
    assert note in preflight(config).notes()


def test_an_unknown_problem_type_is_refused(resnet, tmp_path):
    edit(resnet[0] / "config.json", problem_type="ranking")
    with pytest.raises(InputError, match="expected a problem_type of single_label_classification, .*, found 'ranking'"):
        jaxfer.predict(resnet[0], ["a.png"])

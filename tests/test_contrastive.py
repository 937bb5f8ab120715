"""Pairs of images and texts through a whole run: a CLIP checkpoint in, trained, evaluated, and out again."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import jaxfer
import jaxfer.config
from jaxfer.conformance import tiny
from jaxfer.errors import InputError
from jaxfer.pretrained import foreign
from jaxfer.pretrained.families import by_family
from jaxfer.registry import MODELS
from jaxfer.rules import flatten
from jaxfer.runs.finished import open_run
from tests.experiments import TOKENIZER
from tests.models.tiny import draw
from tests.pretrained.checkpoints import save, weights

WORDS = ("good", "bad", "plain", "fine", "awful", "dull")


def checkpoint(folder, form):
    """A whole CLIP or SigLIP with a tokenizer, as transformers saves it."""
    shutil.copytree(TOKENIZER, folder)
    case = {"clip": "clip", "siglip": "clip_siglip"}[form]
    options = {**tiny.options(case)[1], "outputs": 0, "image": (6, 6, 3)}
    port = MODELS.make("clip", head="pair", **options)
    save(folder, port, *draw(port), by_family("clip", "hf"))
    return folder


@pytest.fixture
def pairs(tmp_path):
    """Twelve images of their own colours, each with a text."""
    rng, lines = np.random.default_rng(0), ["path,caption"]
    (tmp_path / "pairs").mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)).save(tmp_path / "pairs" / f"{i}.png")
        lines.append(f"{i}.png,{WORDS[i % 6]} {WORDS[i // 6]}")
    (tmp_path / "pairs" / "captions.csv").write_text("\n".join(lines))
    return tmp_path / "pairs"


def config_of(init, pairs, **fields):
    config = jaxfer.config.base()
    config.model = dict(name="clip")
    config.data = dict(source="image_table", path=str(pairs), text="caption", label="", val_fraction=0.25)
    config.task = dict(name="contrastive", loss=fields.pop("loss", "softmax"))
    config.update(init=str(init), batch_size=6, steps=3, lr=1e-3, schedule="constant", **fields)
    return config


@pytest.mark.parametrize(("form", "loss"), [("clip", "softmax"), ("siglip", "sigmoid")])
def test_a_run_on_pairs(form, loss, pairs, tmp_path):
    init = checkpoint(tmp_path / "init", form)
    jaxfer.run(config_of(init, pairs, loss=loss), workdir=str(tmp_path / "run"), quiet=True)
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]["val"]
    assert {"recall@1", "loss", "image_to_text@5", "text_to_image_rank"} <= metrics.keys()
    assert metrics["image_to_text@10"] == 1.0 and metrics["loss"] > 0  # six pairs
    finished = open_run(tmp_path / "run")
    before, after = weights(init), flatten(finished.state.params)
    assert abs(float(after["head/logit_scale"][0]) - float(before["logit_scale"].reshape(()))) > 1e-5
    jaxfer.export(tmp_path / "run", out=tmp_path / "out")
    out = weights(tmp_path / "out")
    assert {name: x.shape for name, x in out.items()} == {name: x.shape for name, x in before.items()}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == form
    assert foreign.opened(str(tmp_path / "out"), "clip", {}).options["form"] == form


@pytest.mark.parametrize(
    ("form", "families"),
    [("clip", ("clip_vision", "clip_text", "clip")), ("siglip", ("siglip_vision", "siglip_text", "clip"))],
)
def test_a_whole_checkpoint_is_read_as_the_config_asks(form, families, tmp_path):
    init = str(checkpoint(tmp_path / "init", form))
    for family in families:
        opened = foreign.opened(init, family, {})
        assert opened.layout.family == family and not any("another part" in note for note in opened.notes)
    opened = foreign.opened(init, "auto", {})
    assert opened.layout.family == families[0]  # as before there were others
    (note,) = (note for note in opened.notes if "another part" in note)
    assert f"of model_type {form!r} the {families[0]} is read; config.model.name=clip or {families[1]} reads" in note
    other = "siglip_vision" if form == "clip" else "clip_vision"
    with pytest.raises(InputError, match=f"config.model.name is '{other}' here"):
        foreign.opened(init, other, {})


def test_a_model_of_images_alone_has_no_pairs(pairs):
    config = config_of("scratch", pairs)
    config.model = dict(name="clip_vision", patch=3, width=12, layers=1, heads=3, mlp_width=20, image=(6, 6, 3))
    with pytest.raises(InputError, match="task 'contrastive' needs a model with the head 'pair'"):
        jaxfer.training.preflight.preflight(config)


def zero_shot(init, **fields):
    config = jaxfer.config.base()
    config.model = dict(name="auto")
    config.data = dict(source="synthetic", image=(6, 6, 3), classes_count=3, examples=48)
    config.init_options = dict(prompts=("a film {}", "the {} plot"), names=("good", "bad", "plain song"))
    config.update(init=str(init), head="prompts", batch_size=8, schedule="constant", **fields)
    return config


@pytest.mark.parametrize(("form", "family"), [("clip", "clip_vision"), ("siglip", "siglip_vision")])
def test_a_run_starts_from_zero_shot_classification(form, family, tmp_path):
    init = checkpoint(tmp_path / "init", form)
    jaxfer.run(zero_shot(init, steps=1, lr=0.0), workdir=str(tmp_path / "run"), quiet=True)
    finished = open_run(tmp_path / "run")
    port = finished.stage.spec.port
    assert (finished.experiment.model.name, port.options.normalize) == (family, True)
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert "config.head=prompts" in json.dumps(ledger)
    kernel = np.asarray(finished.state.params["head"]["out"]["kernel"])
    scale = np.exp(weights(init)["logit_scale"].item())
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), [scale] * 3, rtol=1e-5)
    bias = weights(init)["logit_bias"].item() if form == "siglip" else 0.0
    np.testing.assert_array_equal(finished.state.params["head"]["out"]["bias"], np.full(3, np.float32(bias)))
    # It is trained as any other head.
    jaxfer.run(zero_shot(init, steps=2, lr=1e-2), workdir=str(tmp_path / "tuned"), quiet=True)
    assert np.abs(np.asarray(open_run(tmp_path / "tuned").state.params["head"]["out"]["kernel"]) - kernel).max() > 1e-3


NAMES, PROMPT = ("good", "bad", "plain song"), "a film {}"


def test_finetune_like_you_pretrain(tmp_path):
    """FLYP: classes as captions under CLIP's loss, then zero-shot classification by what both towers became."""
    rng, photos = np.random.default_rng(0), tmp_path / "photos"
    for split, count in (("train", 8), ("val", 4)):
        for i, name in enumerate("abc"):
            (photos / split / name).mkdir(parents=True)
            for n in range(count):
                shade = rng.integers(0, 100, (6, 6, 3)) + 60 * i
                Image.fromarray(shade.astype(np.uint8)).save(photos / split / name / f"{n}.png")
    init = checkpoint(tmp_path / "init", "clip")
    config = config_of(init, photos)
    config.data = dict(source="folder", path=str(photos), prompts=(PROMPT,), names=NAMES)
    config.update(batch_size=12, steps=12, lr=3e-3)
    jaxfer.run(config, workdir=str(tmp_path / "flyp"), quiet=True)
    # Equal texts count as one, so that the first of all texts is the likeliest class.
    found = json.loads((tmp_path / "flyp" / "result.json").read_text())["metrics"]["val"]["image_to_text@1"]
    out = jaxfer.export(tmp_path / "flyp", out=tmp_path / "out")
    told = {}
    for name, start in (("before", init), ("after", out)):
        config = zero_shot(start, steps=1, lr=0.0)
        config.data = dict(source="folder", path=str(photos))
        config.init_options = dict(prompts=(PROMPT,), names=NAMES)
        jaxfer.run(config, workdir=str(tmp_path / name), quiet=True)
        told[name] = json.loads((tmp_path / name / "result.json").read_text())["metrics"]["val"]["accuracy"]
    assert told["after"] == found
    assert told["after"] > told["before"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            dict(init_options=dict(names=("a", "b"))),
            "config.init_options.names: expected a name for each of the 3 classes",
        ),
        (dict(init_options=dict(prompts=("a photo",))), "config.init_options.prompts: expected one {} for the class"),
        (dict(head="auto"), "config.init_options.prompts are for config.head=prompts, which is 'auto'"),
        (
            dict(model=dict(name="auto", normalize=False)),
            "expected pool='projection', normalize=True, found normalize=Fa",
        ),
        (dict(model=dict(name="clip_text")), "clip_text, which has no text tower beside it"),
        (
            dict(init="run:x", model=dict(name="clip_vision")),
            "config.head=prompts is for a checkpoint of two towers, config.init is 'run:x'",
        ),
    ],
)
def test_prompts_that_do_not_fit_are_refused(fields, message, tmp_path):
    config = zero_shot(checkpoint(tmp_path / "init", "clip"), steps=1)
    if fields.get("init"):
        config.init_options = {}
    config.update(fields)
    with pytest.raises(InputError) as refused:
        jaxfer.run(config, workdir=str(tmp_path / "run"), quiet=True)
    assert message in str(refused.value)

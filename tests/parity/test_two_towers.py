"""CLIP and SigLIP whole against transformers: embeddings, `logits_per_image`, the loss, ten steps of SGD, exports."""

from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: the extra `parity`")

import torch
from safetensors.numpy import save_file
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from jaxfer.models.port import Training
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.layout import store
from jaxfer.rules import flatten
from jaxfer.tasks import contrastive
from jaxfer.training.preflight import preflight
from tests.experiments import TOKENIZER
from tests.parity.families.clip_text import ended
from tests.parity.reference import BOUND, channels_first, compare, images, ours, settle, tensors
from tests.pretrained.checkpoints import begin, config_of

pytestmark = pytest.mark.optimised

IMAGE = dict(hidden_size=15, num_hidden_layers=2, num_attention_heads=3, intermediate_size=22, patch_size=4)
TEXT = dict(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=18, vocab_size=29)
LENGTH, STEPS, EXAMPLES, RATE = 9, 10, 6, 0.05


def clip():
    text = dict(TEXT, max_position_embeddings=LENGTH, eos_token_id=28)
    return CLIPModel(CLIPConfig(vision_config=dict(IMAGE, image_size=12), text_config=text, projection_dim=7))


def siglip():
    text = dict(TEXT, max_position_embeddings=LENGTH, projection_size=15)
    return SiglipModel(SiglipConfig(vision_config=dict(IMAGE, image_size=12), text_config=text))


MODELS = {"clip": (clip, "softmax"), "siglip": (siglip, "sigmoid")}


def fed(seed, examples=EXAMPLES):
    """(our batch, theirs): SigLIP's tokenizer gives no mask."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(LENGTH) < rng.integers(2, LENGTH + 1, examples)[:, None]).astype(np.int32)
    ids = ended(np.where(mask, rng.integers(3, 29, mask.shape), 1).astype(np.int32), mask)
    x = images((12, 12, 3), examples, seed)
    batch = {"image": x, "input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return batch, {"pixel_values": channels_first(x), "input_ids": torch.from_numpy(ids).long()}


def opened(form, folder):
    torch.manual_seed(0)
    model = MODELS[form][0]()
    settle(model, fed(7)[1], last=r".*(self_attn\.out_proj|mlp\.fc2)", gain=0.5)
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        if form == "siglip":
            model.logit_bias.fill_(-1.25)
    layout = by_family("clip", "hf")
    return model, layout, *ours(layout, model.config.to_dict(), tensors(model, folder), 0, head="pair")


@pytest.mark.parametrize("form", MODELS)
def test_logits_per_image_are_the_references(form, tmp_path):
    model, _, port, params, state = opened(form, tmp_path)
    batch, theirs = fed(3)
    with torch.no_grad():
        expected = model.eval()(**theirs)
    outputs, _ = port.apply(params, state, batch)
    taps = port.forward(params, state, batch, taps=("text_head",)).taps["text_head"]
    for part, embeds in (("image", expected.image_embeds), ("text", expected.text_embeds)):
        length = np.linalg.norm(taps[part], axis=-1, keepdims=True)
        compare({part: np.asarray(taps[part] / length)}, {part: embeds.numpy()}, scaled=False)
    found = {"logits": np.asarray(contrastive.logits(outputs))}
    compare(found, {"logits": expected.logits_per_image.numpy()})


@pytest.mark.parametrize("form", MODELS)
def test_ten_steps_of_sgd_on_the_references_loss(form, tmp_path):
    model, layout, port, params, state = opened(form, tmp_path / "0")
    before = flatten({"params": params})
    of_batch = getattr(contrastive, MODELS[form][1])
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    still = tuple((path, 0.0) for path in port.dropouts)
    training = Training(key=jax.random.key(0), live=frozenset(port.units), eval_norms=frozenset(), dropout=still)

    @jax.jit
    def step(params, batch):
        def loss(params):
            return of_batch(port.apply(params, state, batch, training=training)[0]).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda leaf, slope: leaf - RATE * slope, params, gradient)

    for seed in range(STEPS):
        batch, theirs = fed(seed)
        optimizer.zero_grad()
        expected = model.train()(**theirs, return_loss=True).loss
        expected.backward()
        optimizer.step()
        value, params = step(params, batch)
        assert abs(float(value) - expected.item()) <= BOUND * max(1.0, expected.item())
    found, theirs = flatten({"params": params}), tensors(model, tmp_path / "1")
    for leaf, key in layout.keys(port).items():
        reference = key.load(theirs[key.name])
        error, allowed = np.abs(found[leaf] - reference).max(), BOUND * max(1.0, np.abs(reference).max())
        assert error <= allowed, f"{leaf}: off by {error}, allowed {allowed}"
        assert np.abs(reference - before[leaf]).max() > 5 * allowed or leaf.endswith("/key/bias"), leaf


@pytest.mark.parametrize("form", MODELS)
def test_an_export_is_read_by_transformers(form, tmp_path):
    model, layout, port, params, state = opened(form, tmp_path / "0")
    params = jax.tree.map(lambda x: x * 1.01, params)
    (folder := tmp_path / "export").mkdir()
    (folder / "config.json").write_text(json.dumps(layout.config(port, {}, ())))
    leaves = {key: np.asarray(value, order="C") for key, value in store(params, state, layout, port).items()}
    save_file(leaves, folder / "model.safetensors", {"format": "pt"})
    again, report = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch, theirs = fed(3)
    with torch.no_grad():
        expected = again.eval()(**theirs).logits_per_image.numpy()
    compare({"logits": np.asarray(contrastive.logits(port.apply(params, state, batch)[0]))}, {"logits": expected})
    options = layout.options(again.config.to_dict(), {}, {name: x.shape for name, x in leaves.items()})
    assert {name: options[name] for name in ("form", "projection", "text_heads", "image_layers")} == {
        "form": form,
        "projection": 7 if form == "clip" else 15,
        "text_heads": 2,
        "image_layers": 2,
    }
    assert jnp.shape(params["head"]["logit_scale"]) == (1,)


@pytest.mark.parametrize("form", MODELS)
def test_the_head_of_prompts_classifies_as_the_reference_does(form, tmp_path):
    """Zero-shot logits of one template; of several, transformers' embeddings averaged as the paper says."""
    folder = tmp_path / "init"
    shutil.copytree(TOKENIZER, folder)
    torch.manual_seed(0)
    model = MODELS[form][0]()
    settle(model, fed(7)[1], last=r".*(self_attn\.out_proj|mlp\.fc2)", gain=0.5)
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
    model.config.text_config.eos_token_id = 3  # the tokenizer's
    tower = model.text_model
    tower.eos_token_id = 3
    model.save_pretrained(folder)
    tokenizer, names = AutoTokenizer.from_pretrained(TOKENIZER), ("good", "bad", "plain song")
    _, theirs = fed(3)
    for templates in (("a film {}",), ("a film {}", "the {} plot !")):
        config = config_of(folder, (12, 12, 3), head="prompts", init_options=dict(prompts=templates, names=names))
        start, stage = begin(config), preflight(config).stages[0]
        found, _ = stage.spec.port.apply(start.params, start.model_state, {"image": fed(3)[0]["image"]})
        parts = []
        for template in templates:
            asked = dict(padding="max_length", max_length=LENGTH, return_tensors="pt")
            ids = tokenizer([template.format(name) for name in names], **asked)["input_ids"]
            with torch.no_grad():
                answer = model.eval()(pixel_values=theirs["pixel_values"], input_ids=ids)
            parts.append(answer.text_embeds.numpy())
        if len(templates) == 1:
            compare({"logits": np.asarray(found)}, {"logits": answer.logits_per_image.numpy()})
        mean = np.mean(parts, 0)
        scores = answer.image_embeds.numpy() @ (mean / np.linalg.norm(mean, axis=1, keepdims=True)).T
        bias = model.logit_bias.item() if form == "siglip" else 0.0
        compare({"logits": np.asarray(found)}, {"logits": np.exp(1.5) * scores + bias})

"""Every family of `families/` against its reference in PyTorch: hidden states, logits, ten steps of SGD, exports."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: the extra `parity`")

import torch
from safetensors.numpy import save_file
from torch import nn

from jaxfer.models.port import Training
from jaxfer.pretrained.families import by_family, layouts
from jaxfer.pretrained.layout import store
from jaxfer.rules import flatten
from tests.parity.families import cases
from tests.parity.reference import BOUND, answers, compare, drawn, fed, ours, saved, unit_outputs

pytestmark = pytest.mark.optimised

CASES = cases()
# Of each layout the case with a golden file, else the first with steps of SGD.
FIRST = {case.layout: name for name, case in reversed(CASES.items()) if case.rate}
FIRST |= {case.layout: name for name, case in CASES.items() if case.golden}
FIRST_CASES = {*FIRST.values()}
# A family's other layouts hold the same network, and these families the blocks of BERT, ViT or another one here: that
# their units are right shows most of what there is to show.
HF = {layout.family for layout in layouts() if layout.name == "hf"}
ALIKE = ("albert", "ast", "clip_text", "dinov2", "distilbert", "electra", "mpnet", "roberta")
ALIKE += ("siglip_text", "siglip_vision", "whisper_encoder")
TRAINED = {n for (family, layout), n in FIRST.items() if layout == "hf" and family not in ALIKE or family not in HF}


def asked(chosen=lambda case: True, first=FIRST_CASES):
    """The names of cases as parameters; one worker has all tests of a case.

    `.ci/run` asks one case of each layout: the others are published sizes, and variants of what it compares.
    """
    asked_of = [name for name, case in CASES.items() if chosen(case)]
    rest = {name: () if name in first else (pytest.mark.rest,) for name in asked_of}
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=(pytest.mark.xdist_group(name), *rest[name])) for name in asked_of]
    )


STEPS, EXAMPLES = 10, 8


def opened(case, folder):
    """(reference, layout, port, params, model_state, batch)."""
    model, batch = drawn(case)
    layout = by_family(*case.layout)
    config = model.config.to_dict() if hasattr(model, "config") and hasattr(model.config, "to_dict") else {}
    tensors = {key: x for key, x in saved(model, folder).items() if not re.fullmatch(case.unread, key)}
    options = {**({"image": case.image} if case.image else {}), **case.options}
    return model, layout, *ours(layout, config, tensors, case.outputs, **options), batch


@asked()
def test_every_unit_equals_the_reference(name, tmp_path):
    case = CASES[name]
    model, _, port, params, state, batch = opened(case, tmp_path)
    found, expected = unit_outputs(port, params, state, batch), answers(case, model, batch)
    if "attention_mask" in batch:  # what is at padding is of no account
        for of in (found, expected):
            mask = batch["attention_mask"][..., None]
            of |= {name: x * mask for name, x in of.items() if x.ndim == 3 and x.shape[1] == mask.shape[1]}
    compare(found, expected)


@asked(lambda case: case.rate, first=TRAINED)
def test_ten_sgd_steps(name, tmp_path):
    case = CASES[name]
    model, layout, port, params, state, _ = opened(case, tmp_path / "0")
    before = flatten({"params": params, **state})
    batches = [fed(case, model, EXAMPLES, seed) for seed in range(STEPS)]
    labels = np.random.default_rng(1).integers(case.outputs, size=(STEPS, EXAMPLES))

    optimizer = torch.optim.SGD(model.parameters(), lr=case.rate)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for (_, theirs), y in zip(batches, labels, strict=True):
        optimizer.zero_grad()
        logits = case.logits(model(**theirs) if isinstance(theirs, dict) else model(theirs))
        nn.functional.cross_entropy(case.read(logits), torch.from_numpy(y)).backward()
        optimizer.step()

    still = tuple((path, 0.0) for path in port.dropouts)
    training = Training(key=jax.random.key(0), live=frozenset(port.units), eval_norms=frozenset(), dropout=still)

    @jax.jit
    def step(params, state, batch, labels):
        def loss(params):
            logits, after = port.apply(params, state, batch, training=training)
            chances = jax.nn.log_softmax(case.read(logits))
            return -jnp.take_along_axis(chances, labels[:, None], 1).mean(), after

        gradient, after = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda leaf, slope: leaf - case.rate * slope, params, gradient), after

    for (batch, _), y in zip(batches, labels, strict=True):
        params, state = step(params, state, batch, y)
    found, theirs = flatten({"params": params, **state}), saved(model, tmp_path / "1")
    for leaf, key in layout.keys(port).items():
        name = next(name for name in (key.name, *key.others) if name in theirs)
        expected = key.load(theirs[name])
        error, allowed = np.abs(found[leaf] - expected).max(), BOUND * max(1.0, np.abs(expected).max())
        assert error <= allowed, f"{leaf}: off by {error}, allowed {allowed}"
        # A step that went nowhere would prove nothing.
        moved = np.abs(expected - before[leaf]).max()
        assert moved > 5 * allowed or re.fullmatch(case.still, leaf), f"{leaf} moved by {moved} only"


@asked(lambda case: case.layout[1] == "hf" and case.exported)
def test_an_export_is_read_by_the_reference(name, tmp_path):
    """config.json and tensors of ours, as transformers reads them: no key missing, none unexpected, the same logits."""
    case = CASES[name]
    model, layout, port, params, state, batch = opened(case, tmp_path / "0")
    folder = tmp_path / "export"
    folder.mkdir()
    labels = tuple(f"class_{i}" for i in range(case.outputs))
    (folder / "config.json").write_text(json.dumps(layout.config(port, {}, labels)))
    tensors = {key: np.asarray(value, order="C") for key, value in store(params, state, layout, port).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    again, report = type(model).from_pretrained(folder, output_loading_info=True)
    missing = [key for key in report["missing_keys"] if not re.fullmatch(case.unread, key)]
    assert not missing and not report["unexpected_keys"] and not report["mismatched_keys"]
    expected = answers(case, again, batch)["logits"]
    compare({"logits": np.asarray(port.apply(params, state, batch)[0])}, {"logits": expected}, scaled=False)

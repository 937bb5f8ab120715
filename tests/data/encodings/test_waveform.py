"""Samples against transformers' own normalisation, padding and masks by the windows of convolutions."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from transformers import Wav2Vec2FeatureExtractor

from jaxfer.data.encodings.waveform import WaveformEncoding
from jaxfer.data.loader import Feed, train_batches
from jaxfer.data.split import Dataset
from jaxfer.errors import InputError
from tests.data.encodings.test_audio import SOUNDS, tone, waves

PUBLISHED = tuple(zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True))
SMALL = WaveformEncoding(rate=1000, seconds=0.02, windows=((4, 3), (3, 2)))  # 20 samples, 6 places, 2 places


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("sound", SOUNDS.values(), ids=SOUNDS)
def test_samples_are_those_of_wav2vec2(sound, normalize):
    theirs = Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True)
    how = dict(padding="max_length", max_length=16000, truncation=True, sampling_rate=16000, return_tensors="np")
    expected = theirs(sound, **how)
    found, places = WaveformEncoding(seconds=1.0, normalize=normalize, windows=PUBLISHED).fitted_to(sound)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected["input_values"][0], rtol=0, atol=1e-4)
    assert places == WaveformEncoding(windows=PUBLISHED).places(int(expected["attention_mask"].sum()))


def test_places_of_the_published_windows():
    encoding = WaveformEncoding(windows=PUBLISHED)
    assert [encoding.places(n) for n in (399, 400, 719, 720, 16000)] == [0, 1, 1, 2, 49]


def test_a_batch_has_a_mask_where_the_model_reads_one():
    sounds = [np.ones(n, np.float32) for n in (20, 40, 12, 2, 0)]
    split = waves(*((sound, 1000) for sound in sounds))
    reader = pickle.loads(pickle.dumps(dataclasses.replace(SMALL, normalize=False).reader(split)))
    batch = reader(np.arange(5))
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        name: ((5, *like.shape[1:]), like.dtype) for name, like in SMALL.example(1).items()
    }
    np.testing.assert_array_equal(batch["audio"].sum(1), [20, 20, 12, 2, 0])
    np.testing.assert_array_equal(batch["attention_mask"], [[1, 1], [1, 1], [1, 0], [1, 0], [1, 0]])
    unmasked = dataclasses.replace(SMALL, masked=False)
    assert set(unmasked.reader(split)(np.arange(2))) == set(unmasked.example(2)) == {"audio"}


def test_normalisation_is_of_the_sound_and_not_of_its_padding():
    found, _ = SMALL.fitted_to(np.array([1, 3, 1, 3], np.float32))
    np.testing.assert_allclose(found[:4], [-1, 1, -1, 1], atol=1e-6)
    assert not found[4:].any() and not SMALL.fitted_to(np.full(9, 5, np.float32))[0].any()


def test_notes_say_what_is_cut_and_what_is_spare():
    data = Dataset(splits={"train": waves((tone(300, 0.3, 16000), 16000))}, classes=("a",), fingerprint="0" * 64)
    assert WaveformEncoding(seconds=0.5).notes(data, 0) == ()
    (cut,) = WaveformEncoding(seconds=0.2).notes(data, 0)
    assert cut.startswith("sounds are cut at 0.2 s, the longest has 0.3 s; config.model.seconds sets it")
    spare = "sounds are padded to 0.6 s, the longest has 0.3 s; config.model.seconds sets it"
    assert WaveformEncoding(seconds=0.6).notes(data, 0) == (spare,)


def test_samples_are_augmented_and_masks_of_spectrograms_refused():
    feed = Feed(split=waves((tone(100, 0.1, 1000), 1000)), encodings=(SMALL,))
    order = dict(seed=0, batch_size=1, start=0, stop=1)
    (plain,) = train_batches(feed, **order)
    (noisy,) = train_batches(feed, **order, augment=("noise(p=1)",))
    assert (plain["audio"] != noisy["audio"]).any()
    with pytest.raises(InputError, match="time_mask is of spectrograms, and the model reads samples; remove it"):
        next(train_batches(feed, **order, augment=("time_mask",)))


def test_a_baseline_reads_log_mels():
    encoding = WaveformEncoding(seconds=0.2)
    flat = encoding.flat(waves((tone(440, 0.2, 16000), 16000)))
    assert flat.shape == (1, 20 * 40) and encoding.features == "log-mels"

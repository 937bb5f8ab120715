"""Log-mels against transformers' own, resampling, cutting and padding."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from jaxfer.data.encodings.audio import AudioEncoding, augmented, log_mel, mel_filters, resampled
from jaxfer.data.encodings.augment import augmentations
from jaxfer.data.encodings.image import ImageEncoding
from jaxfer.data.loader import Feed, eval_batches, train_batches
from jaxfer.data.order import batch_indices, example_rng
from jaxfer.data.split import Array, Dataset, Split
from jaxfer.errors import InputError
from jaxfer.models.chain import audio_encoding


@dataclasses.dataclass(frozen=True, eq=False)
class Waves:
    """A column of sounds in memory."""

    sounds: tuple
    rates: np.ndarray
    kind = "audio"

    @property
    def lengths(self):
        return np.array([len(sound) for sound in self.sounds])

    def __len__(self):
        return len(self.sounds)

    def __getitem__(self, row):
        return self.sounds[row]


def tone(hertz, seconds, rate):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def waves(*sounds):
    """A split of (sound, rate) pairs."""
    column = Waves(tuple(sound for sound, _ in sounds), np.array([rate for _, rate in sounds]))
    return Split.whole(audio=column, label=Array(np.zeros(len(sounds), np.int32), "class"))


SOUNDS = {
    "noise": np.random.default_rng(0).normal(size=9000).astype(np.float32),
    "quiet": 1e-5 * np.random.default_rng(1).normal(size=20000).astype(np.float32),
    "tone": tone(440, 1, 16000),
    "click": np.eye(1, 5000, 777, dtype=np.float32)[0],
    "silence": np.zeros(400, np.float32),
    "too long": np.random.default_rng(2).normal(size=70000).astype(np.float32),
}


@pytest.mark.parametrize(("seconds", "mels"), [(1, 80), (2, 128), (30, 80)])
@pytest.mark.parametrize("sound", SOUNDS.values(), ids=SOUNDS)
def test_log_mels_are_those_of_whisper(sound, seconds, mels):
    theirs = WhisperFeatureExtractor(feature_size=mels, chunk_length=seconds)
    (expected,) = theirs(sound, sampling_rate=16000, return_tensors="np")["input_features"]
    found = log_mel(sound, AudioEncoding(seconds=float(seconds), mels=mels))
    assert found.dtype == np.float32 and found.shape == (100 * seconds, mels)
    np.testing.assert_allclose(found, expected.T, rtol=0, atol=1e-4)


@pytest.mark.parametrize("mels", [20, 80, 128])
def test_mel_filters_are_slaneys(mels):
    expected = WhisperFeatureExtractor(feature_size=mels).mel_filters.T
    np.testing.assert_allclose(mel_filters(16000, 400, mels), expected, rtol=0, atol=1e-12)


def test_a_sound_of_another_rate_is_resampled():
    expected = tone(440, 0.5, 16000)
    for rate in (8000, 22050, 44100, 48000):
        found = resampled(tone(440, 0.5, rate), rate, 16000)
        assert found.dtype == np.float32 and len(found) == 8000
        np.testing.assert_allclose(found[200:-200], expected[200:-200], atol=5e-3)
    assert resampled(expected, 16000, 16000) is expected


def test_a_short_sound_ends_in_silence_and_a_long_one_is_cut():
    encoding = AudioEncoding(rate=8000, seconds=0.2, mels=20)
    short, long = tone(1000, 0.1, 8000), tone(1000, 0.5, 8000)
    audio = encoding.reader(waves((short, 8000), (long, 8000), (long[:1600], 8000)))(np.arange(3))["audio"]
    assert audio.shape == encoding.example(3)["audio"].shape == (3, 20, 20)
    np.testing.assert_array_equal(audio[1], audio[2])
    np.testing.assert_allclose(audio[0, 12:], audio[0].max() - 2, atol=1e-6)  # 8 decades, divided by 4
    assert audio[1, 12:].max() > audio[1].max() - 0.1


def test_notes_say_what_is_resampled_and_what_is_cut():
    at_8, at_16 = (tone(300, 0.3, 8000), 8000), (tone(300, 0.1, 16000), 16000)
    splits = {"train": waves(at_8, at_8, at_16), "val": waves(at_16), "test": waves(at_8)}
    data = Dataset(splits=splits, classes=("a",), fingerprint="0" * 64)
    assert AudioEncoding(seconds=0.2).notes(data, 0) == (
        "sounds of 8,000 Hz are resampled to the model's 16,000 Hz",
        "sounds are cut at 0.2 s, the longest has 0.3 s; config.model.seconds sets it (2 of 3 in train, 1 of 1 in "
        "test)",
    )
    splits = {"train": waves(at_16)}
    assert AudioEncoding(seconds=0.1).notes(dataclasses.replace(data, splits=splits), 0) == ()


def test_flat_is_at_most_3072_means():
    split = waves((SOUNDS["noise"], 16000), (SOUNDS["tone"], 16000))
    small = AudioEncoding(seconds=0.2, mels=80)
    np.testing.assert_allclose(small.flat(split), small.reader(split)(np.arange(2))["audio"].reshape(2, -1), rtol=1e-6)
    large = AudioEncoding(seconds=1.0, mels=80)
    flat, whole = large.flat(split), large.reader(split)(np.arange(2))["audio"]
    assert flat.shape == (2, 38 * 80) and flat.dtype == np.float32
    np.testing.assert_allclose(flat.mean(1), whole.mean((1, 2)), rtol=1e-5)
    assert AudioEncoding(seconds=1.0, mels=4000).flat(waves((SOUNDS["tone"], 16000))).shape == (1, 3072)


def test_a_batch_follows_the_rows_of_a_subset_and_a_reader_is_pickled():
    encoding = AudioEncoding(rate=8000, seconds=0.1, mels=20)
    split = waves(*((tone(hertz, 0.1, 8000), 8000) for hertz in (200, 500, 1000, 2000)))
    whole = encoding.reader(split)(np.arange(4))["audio"]
    taken = pickle.loads(pickle.dumps(encoding.reader(split.take(np.array([3, 1])))))
    np.testing.assert_array_equal(taken(np.array([1, 0, 1]))["audio"], whole[[1, 3, 1]])
    (batch,) = eval_batches(Feed(split=split, encodings=(encoding,)), batch_size=6)
    np.testing.assert_array_equal(batch["audio"], whole[[0, 1, 2, 3, 0, 0]])


def test_augmentation_is_refused():
    feed = Feed(split=waves((SOUNDS["tone"], 16000)), encodings=(AudioEncoding(seconds=1.0),))
    with pytest.raises(InputError, match=r"data.augment=\('flip',\) is of images, the data source has sounds; remove"):
        next(train_batches(feed, seed=0, batch_size=1, start=0, stop=1, augment=("flip",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rate=0), "rate must be a positive integer, found 0"),
        (dict(rate=11025), "rate must be a multiple of 200 from 1000 samples a second, found 11025; give e.g. 16000"),
        (dict(seconds=0.01), "seconds must be a length of at least 0.02, found 0.01"),
        (dict(seconds=float("nan")), "seconds must be a length of at least 0.02, found nan"),
        (dict(mels=300), "mels=300 at rate=16000 has bins without any frequency; lower mels"),
    ],
)
def test_options_that_make_no_spectrogram(options, message):
    with pytest.raises(InputError, match=message):
        audio_encoding(**{"rate": 16000, "seconds": 1.0, "mels": 80, **options})


ENCODING = AudioEncoding(rate=800, seconds=1, mels=20)  # 100 frames


def test_a_sound_is_shifted_into_silence():
    sound, found = np.arange(1, 6, dtype=np.float32), set()
    (entry,) = augmentations(("time_shift(seconds=0.005)",))  # by 4 samples
    for seed in range(40):
        (change,) = entry.changes(np.random.default_rng(seed), (5, 800))
        found.add(tuple(change.apply(sound, "").tolist()))
    by = {0: (1, 2, 3, 4, 5), 1: (0, 1, 2, 3, 4), 4: (0, 0, 0, 0, 1), -1: (2, 3, 4, 5, 0), -4: (5, 0, 0, 0, 0)}
    assert len(found) == 9 and set(by.values()) <= found
    for seed in range(20):  # by at most its length
        (change,) = augmentations(("time_shift(seconds=60)",))[0].changes(np.random.default_rng(seed), (5, 800))
        assert change.apply(sound, "").shape == (5,)


def test_noise_has_its_power():
    sound = tone(100, 10, 800)  # of power 1/2
    (change,) = augmentations(("noise(p=1, low=20, high=20)",))[0].changes(np.random.default_rng(0), (len(sound), 800))
    added = change.apply(sound, "") - sound
    assert added.dtype == np.float32 and np.mean(added**2) == pytest.approx(0.005, rel=0.05)
    assert not change.apply(np.zeros(9, np.float32), "").any()


def test_masks_by_hand():
    """Widths, then begins; of 100 frames at most a fifth, of 20 bins at most 7."""
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    found = augmented(SOUNDS["noise"], ("time_mask", "frequency_mask(count=1, widest=7)"), rng, ENCODING)
    expected = log_mel(SOUNDS["noise"], ENCODING)
    assert expected.all()
    for _ in range(2):
        width = again.integers(21)
        begin = again.integers(100 - width + 1)
        expected[begin : begin + width] = 0
    width = again.integers(8)
    begin = again.integers(20 - width + 1)
    expected[:, begin : begin + width] = 0
    np.testing.assert_array_equal(found, expected)
    assert 0 < (found == 0).mean() < 0.7


def test_sounds_are_augmented_in_training_alone():
    data = waves(*((sound, 800) for sound in SOUNDS.values()))
    feed, augment = Feed(split=data, encodings=(ENCODING,)), ("time_shift", "noise", "time_mask", "frequency_mask")
    order = dict(seed=1, batch_size=6, augment=augment)
    first, second = train_batches(feed, **order, start=0, stop=2)
    (again,) = train_batches(feed, **order, start=1, stop=2)
    np.testing.assert_array_equal(again["audio"], second["audio"])
    chosen = batch_indices(1, 0, size=6, batch_size=6)
    for place, row in enumerate(chosen):
        sound = list(SOUNDS.values())[row]
        np.testing.assert_array_equal(
            first["audio"][place], augmented(sound, augment, example_rng(1, 0, place), ENCODING)
        )
        assert (first["audio"][place] != log_mel(sound, ENCODING)).any()
    with pytest.raises(InputError, match=r"data.augment=\('time_mask',\) is of sounds, the data source has images"):
        image = Split.whole(image=Array(np.zeros((2, 4, 4, 1), np.uint8), "image"))
        Feed(split=image, encodings=(ImageEncoding(size=(4, 4, 1)),)).check(("flip", "time_mask"))

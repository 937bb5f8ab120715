"""Kaldi's filter banks against those that transformers' `ASTFeatureExtractor` takes, cutting and padding."""

from __future__ import annotations

import numpy as np
import pytest
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from jaxfer.data.encodings.fbank import FbankEncoding, kaldi_filters, padded
from tests.data.encodings.test_audio import SOUNDS, tone, waves


def filters(mels):
    return mel_filter_bank(257, mels, 20, 8000, 16000, mel_scale="kaldi", triangularize_in_mel_space=True)


@pytest.mark.parametrize(("frames", "mels"), [(40, 128), (128, 80), (1024, 128)])
@pytest.mark.parametrize("sound", SOUNDS.values(), ids=SOUNDS)
def test_filter_banks_are_those_of_ast(sound, frames, mels):
    options = dict(frame_length=400, hop_length=160, fft_length=512, power=2.0, center=False, preemphasis=0.97)
    options |= dict(log_mel="log", mel_floor=float(np.finfo(np.float32).eps), remove_dc_offset=True)
    theirs = spectrogram(sound, window_function(400, "hann", periodic=False), mel_filters=filters(mels), **options).T
    expected = np.zeros((frames, mels))
    expected[: len(theirs)] = theirs[:frames]
    found = FbankEncoding(frames=frames, mels=mels, log_mean=-6.5, log_std=5.5).spectrogram(sound)
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, (expected + 6.5) / 11, rtol=0, atol=1e-4)


def test_filters_are_kaldis():
    np.testing.assert_allclose(kaldi_filters(16000, 512, 128), filters(128).T, rtol=0, atol=1e-12)
    assert [padded(window) for window in (200, 256, 257, 400)] == [256, 256, 512, 512]


def test_a_short_sound_is_followed_by_energies_of_one_and_a_long_one_is_cut():
    encoding = FbankEncoding(rate=8000, frames=20, mels=9, log_mean=-2.0, log_std=4.0)
    assert encoding.samples == 19 * 80 + 200
    short, long = tone(1000, 0.1, 8000), tone(1000, 0.5, 8000)
    split = waves((short, 8000), (long, 8000), (long[: encoding.samples], 8000), (short[:199], 8000))
    audio = encoding.reader(split)(np.arange(4))["audio"]
    assert audio.shape == encoding.example(4)["audio"].shape == (4, 20, 9)
    np.testing.assert_array_equal(audio[1], audio[2])
    assert (audio[0, 8:] == 0.25).all() and (audio[0, :8] != 0.25).any(1).all()  # (800 - 200) // 80 + 1 windows
    assert (audio[3] == 0.25).all()  # less than a window
    np.testing.assert_allclose(encoding.flat(split), audio.reshape(4, -1), rtol=1e-6)


def test_notes_name_the_option():
    (note,) = FbankEncoding(frames=8).notes(_data(tone(300, 0.3, 16000)), 0)
    assert note == "sounds are cut at 0.095 s, the longest has 0.3 s; config.model.frames sets it (1 of 1 in train)"


def _data(sound):
    from jaxfer.data.split import Dataset

    return Dataset(splits={"train": waves((sound, 16000))}, classes=("a",), fingerprint="0" * 64)

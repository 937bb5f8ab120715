"""Samples of .wav files against SciPy's reader, and files that are none."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from scipy.io import wavfile

from jaxfer.data.encodings import wav
from jaxfer.errors import InputError

RNG = np.random.default_rng(0)
TYPES = {
    "8 bits": RNG.integers(0, 256, 99).astype(np.uint8),
    "16 bits": RNG.integers(-(2**15), 2**15, 99).astype(np.int16),
    "32 bits": RNG.integers(-(2**31), 2**31, 99).astype(np.int32),
    "floats": RNG.uniform(-1, 1, 99).astype(np.float32),
    "doubles": RNG.uniform(-1, 1, 99),
}
SCALES = {"uint8": (128, 128), "int16": (0, 2**15), "int32": (0, 2**31), "float32": (0, 1), "float64": (0, 1)}


def riff(*chunks):
    """The bytes of a RIFF WAVE file of (name, content) chunks."""
    parts = (name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2) for name, content in chunks)
    body = b"WAVE" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def form(code=1, channels=1, rate=8000, bits=16, extra=b""):
    width = channels * bits // 8
    return b"fmt ", struct.pack("<HHIIHH", code, channels, rate, rate * width, width, bits) + extra


@pytest.mark.parametrize("values", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_are_scipys_on_one_scale(values, channels, tmp_path):
    file = tmp_path / "a.wav"
    wavfile.write(file, 11025, values if channels == 1 else values.reshape(-1, channels))
    found = wav.header(file)
    assert (found.rate, found.channels, found.length) == (11025, channels, 99 // channels)
    zero, full = SCALES[values.dtype.name]
    expected = (wavfile.read(file)[1].astype(np.float64).reshape(-1, channels).mean(1) - zero) / full
    samples = wav.decode(file)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, expected, atol=1e-6)


def test_24_bits_in_an_extensible_header_after_other_chunks(tmp_path):
    file, values = tmp_path / "a.wav", np.array([0, 1, -1, 2**23 - 1, -(2**23)])
    data = b"".join(int(value).to_bytes(3, "little", signed=True) for value in values)
    extra = struct.pack("<HHIH", 22, 24, 0, 1) + bytes(14)
    file.write_bytes(riff((b"LIST", b"odd"), form(0xFFFE, bits=24, extra=extra), (b"data", data), (b"id3 ", b"x")))
    np.testing.assert_allclose(wav.decode(file), values / 2**23, atol=1e-7)


def test_a_stream_has_samples_up_to_its_end(tmp_path):
    file, data = tmp_path / "a.wav", np.arange(5, dtype="<i2").tobytes()
    file.write_bytes(riff(form(), (b"data", data)).replace(b"data\x0a\0\0\0", b"data\xff\xff\xff\xff"))
    np.testing.assert_array_equal(wav.decode(file) * 2**15, np.arange(5))


BAD = {
    "empty": (b"", "it is empty"),
    "text": (b"a sound, in words", "it is no RIFF WAVE file"),
    "another RIFF": (b"RIFF\4\0\0\0AVI ", "it is no RIFF WAVE file"),
    "header alone": (riff()[:12], "it is cut short"),
    "no format": (riff((b"data", bytes(4))), "its samples come before their format"),
    "short format": (riff((b"fmt ", bytes(4)), (b"data", bytes(4))), "requires a buffer"),
    "no samples": (riff(form(), (b"data", b"")), "it holds no samples"),
    "no data": (riff(form()), "it holds no samples"),
    "cut in the samples": (riff(form(), (b"data", bytes(100)))[:-60], "it is cut short: 40 of 100 bytes of samples"),
    "cut before the samples": (riff(form(), (b"LIST", bytes(100)), (b"data", b"12"))[:90], "it is cut short"),
    "compressed": (riff(form(code=7, bits=8), (b"data", bytes(4))), "coding 7 of 8 bits; write it as PCM of 8 to 32"),
    "no channels": (riff(form(channels=0), (b"data", bytes(4))), "0 channels of 8000 samples a second"),
    "no rate": (riff(form(rate=0), (b"data", bytes(4))), "1 channels of 0 samples a second"),
}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
def test_a_file_that_is_no_sound_is_one_line(content, reason, tmp_path):
    file = tmp_path / "bad.wav"
    file.write_bytes(content)
    for read in (wav.header, wav.decode):
        with pytest.raises(InputError, match=r"expected a readable \.wav, found '.*bad\.wav'") as caught:
            read(file)
        assert reason in str(caught.value) and "\n" not in str(caught.value)
        assert str(caught.value).endswith("; replace or remove it")


def test_samples_that_are_no_numbers(tmp_path):
    wavfile.write(tmp_path / "a.wav", 8000, np.array([0, np.nan], np.float32))
    with pytest.raises(InputError, match=r"expected finite samples, found nan or inf in '.*a\.wav'"):
        wav.decode(tmp_path / "a.wav")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"'.*none\.wav' \(No such file or directory\)"):
        wav.header(tmp_path / "none.wav")

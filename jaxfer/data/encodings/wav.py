"""Sound files to samples: the chunks of a RIFF WAVE file, checked before the run and decoded in it.

Samples are float32 [n] on -1..1: channels are averaged, integers divided by their full scale. Decoding is NumPy's, over
the bytes that the header names: SciPy's reader warns about chunks that it skips, which no thread can silence alone.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jaxfer.errors import InputError

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
READ = {(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)}  # (format, bits)
STREAMED = 0xFFFFFFFF  # the size that a writer to a pipe leaves: up to the end of the file


@dataclass(frozen=True)
class Header:
    """Where the samples of a file are, and what they are.

    Attributes:
      format: `PCM` or `FLOAT`.
      bits: of a sample.
      channels: interleaved.
      rate: samples a second of each channel.
      begin: byte of the first sample.
      length: samples of each channel.
    """

    format: int
    bits: int
    channels: int
    rate: int
    begin: int
    length: int


def header(file: Path) -> Header:
    """The header of a .wav file; `InputError` if the file is none, holds another coding, or was cut short."""
    try:
        with open(file, "rb") as content:
            return _header(content)
    except (OSError, ValueError, struct.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"expected a readable .wav, found {str(file)!r} ({reason}); replace or remove it") from None


def decode(file: Path) -> np.ndarray:
    """The samples, float32 [n], the mean of the channels; `InputError` as `header` has it."""
    found = header(file)
    with open(file, "rb") as content:
        content.seek(found.begin)
        data = content.read(found.length * found.channels * found.bits // 8)
    samples = _samples(data, found).reshape(-1, found.channels)
    if not np.isfinite(samples).all():
        raise InputError(f"expected finite samples, found nan or inf in {str(file)!r}; replace or remove it")
    return samples[:, 0] if found.channels == 1 else samples.mean(1, dtype=np.float32)


def _header(content: BinaryIO) -> Header:
    size = content.seek(0, os.SEEK_END)
    content.seek(0)
    start = content.read(12)
    if start[:4] != b"RIFF" or start[8:] != b"WAVE":
        raise ValueError("it is no RIFF WAVE file" if size else "it is empty")
    at, form = 12, None
    while at + 8 <= size:
        content.seek(at)
        name, length = struct.unpack("<4sI", content.read(8))
        at += 8
        if name == b"fmt ":
            form = content.read(min(length, 40))
        if name == b"data":
            if form is None:
                raise ValueError("its samples come before their format")
            return _described(form, at, size - at if length == STREAMED else length, size)
        at += length + length % 2  # chunks begin at even bytes
    raise ValueError("it is cut short" if form is None or at > size else "it holds no samples")


def _described(form: bytes, begin: int, length: int, size: int) -> Header:
    """The header of `length` bytes of samples from `begin`, in a file of `size` bytes."""
    code, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", form)
    if code == EXTENSIBLE:
        (code,) = struct.unpack_from("<H", form, 24)  # the first bytes of the coding's GUID
    if (code, bits) not in READ:
        raise ValueError(f"coding {code} of {bits} bits; write it as PCM of 8 to 32 bits, or floats")
    if not channels or not rate:
        raise ValueError(f"{channels} channels of {rate} samples a second")
    if begin + length > size:
        raise ValueError(f"it is cut short: {size - begin:,} of {length:,} bytes of samples")
    count = length // (channels * bits // 8)
    if not count:
        raise ValueError("it holds no samples")
    return Header(code, bits, channels, rate, begin, count)


def _samples(data: bytes, found: Header) -> np.ndarray:
    """Interleaved samples, float32 on -1..1."""
    if found.format == FLOAT:
        return np.frombuffer(data, f"<f{found.bits // 8}").astype(np.float32)
    if found.bits == 8:  # the only unsigned ones
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    if found.bits == 24:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return (wide.view("<i4")[:, 0] / 2**31).astype(np.float32)
    return (np.frombuffer(data, f"<i{found.bits // 8}") / 2 ** (found.bits - 1)).astype(np.float32)

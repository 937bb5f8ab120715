"""Detects truncated image files from their structure alone; nothing is decoded.

Phones and cameras append to their files (a Motion Photo's video, padding), so the end of the image is looked for where
the format says it is, not in the last bytes of the file.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

from PIL import Image

TAIL = 1024  # bytes; most files end within these, which spares a walk through the whole file

END_OF_IMAGE = 0xD9
# Bytes after 0xff that have no length: the 0 that marks data, TEM, the restart markers, the start of the image.
BARE = {0x00, 0x01, *range(0xD0, 0xD9)}


def whole(image: Image.Image, content: BinaryIO) -> bool:
    """Whether `content` holds all of `image`.

    Args:
      image: opened by Pillow, its header read.
      content: the file's bytes, seekable.

    Returns:
      True for formats whose end can't be told from their structure.
    """
    size = content.seek(0, os.SEEK_END)
    if image.format in ("JPEG", "MPO"):
        return b"\xff\xd9" in _tail(content, size) or _jpeg(content)
    if image.format == "PNG":
        return b"IEND" in _tail(content, size) or _png(content, size)
    if image.format == "WEBP":  # RIFF: bytes 4 to 8 are the size of what follows them
        content.seek(4)
        return size >= 8 + int.from_bytes(content.read(4), "little")
    if image.format in ("BMP", "DIB"):
        return all(size >= _raw_end(tile) for tile in image.tile if tile[0] == "raw")
    return True


def _tail(content: BinaryIO, size: int) -> bytes:
    content.seek(max(0, size - TAIL))
    return content.read()


def _raw_end(tile: tuple) -> int:
    """One past the last pixel of a tile of uncompressed rows, as Pillow describes it."""
    _, (_, top, _, bottom), offset, (_, stride, *_) = tile
    return offset + stride * (bottom - top) - 3  # some writers leave out the padding of the last row, up to 3 bytes


def _jpeg(content: BinaryIO) -> bool:
    """Whether an end-of-image marker follows the scans (ISO/IEC 10918-1, B.1); thumbnails in other segments are
    skipped."""
    content.seek(0)
    data, at = content.read(), 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        if marker == END_OF_IMAGE:
            return True
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in BARE:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _png(content: BinaryIO, size: int) -> bool:
    """Whether the chunks run up to IEND (ISO/IEC 15948, 5.3)."""
    at = 8
    while at + 12 <= size:
        content.seek(at)
        length, kind = struct.unpack(">I4s", content.read(8))
        at += 12 + length
        if kind == b"IEND":
            return True
    return False

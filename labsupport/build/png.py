"""Write a small PNG: a plot has few colours, so 8 bits a pixel are enough.

A browser writes four bytes a pixel. A palette of at most 256 colours makes the
same picture three to four times smaller, which is what keeps a notebook with
several pictures under its limit.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def palette(rgb_N3: Pixels, size: int = 256) -> tuple[Pixels, Pixels]:
    """Choose colours by popularity and give every pixel its nearest one.

    Args:
        rgb_N3: pixels, uint8.
        size: the most colours to keep.

    Returns:
        The palette (P, 3) with P <= size, and each pixel's index (N,), uint8.
    """
    packed_N = rgb_N3.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    colours_C, inverse_N, counts_C = np.unique(
        packed_N, return_inverse=True, return_counts=True
    )
    shifts = np.array([16, 8, 0], np.uint32)
    rgb_C3 = ((colours_C[:, None] >> shifts) & 255).astype(np.int32)
    if len(colours_C) <= size:
        return rgb_C3.astype(np.uint8), inverse_N.astype(np.uint8)
    # Near-equal shades share one entry (5 bits a channel), so that a smooth
    # gradient does not fill the palette before rarer colours get a place.
    bucket_C = (rgb_C3 >> 3) @ np.array([1024, 32, 1])
    weight_B = np.bincount(bucket_C, weights=counts_C)
    best_B = np.argsort(-weight_B, kind="stable")[:size]
    chosen = np.zeros((len(best_B), 3), np.int32)
    for place, bucket in enumerate(best_B):
        # A bucket's commonest colour is kept exactly: the paper stays white.
        members = np.flatnonzero(bucket_C == bucket)
        if len(members):
            chosen[place] = rgb_C3[members[np.argmax(counts_C[members])]]
    nearest_C = np.empty(len(rgb_C3), np.uint8)
    for start in range(0, len(rgb_C3), 4096):
        block = rgb_C3[start : start + 4096, None, :] - chosen[None]
        nearest_C[start : start + 4096] = (block**2).sum(-1).argmin(-1)
    return chosen.astype(np.uint8), nearest_C[inverse_N]


def encode(rgb_HW3: Pixels) -> bytes:
    """Encode pixels (height, width, 3), uint8, as a palette PNG."""
    height, width, _ = rgb_HW3.shape
    colours, index_N = palette(rgb_HW3.reshape(-1, 3))
    rows = np.zeros((height, width + 1), np.uint8)  # column 0: filter "none"
    rows[:, 1:] = index_N.reshape(height, width)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, body)
        for kind, body in (
            (b"IHDR", header),
            (b"PLTE", colours.tobytes()),
            (b"IDAT", zlib.compress(rows.tobytes(), 9)),
            (b"IEND", b""),
        )
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

"""Animated GIF (GIF89a) from PNG pictures of a page, with nothing but numpy: few colours, and only what changes."""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
COLOURS = 64
FREQUENT = 40
"""Colours that are chosen for being frequent alone."""
BITS = 6
"""Bits of a colour's number."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture and how long it is seen."""

    png: bytes
    seconds: float


def pixels_of(png: bytes) -> Pixels:
    """The pixels of a PNG with 8 bits a channel and no interlacing: height, width, 3."""
    width, height, depth, kind = struct.unpack(">IIBB", png[16:26])
    channels = {2: 3, 6: 4}[kind]
    if depth != 8:
        raise ValueError("a PNG with 8 bits a channel is needed")
    rows = np.frombuffer(zlib.decompress(b"".join(_chunks(png, b"IDAT"))), np.uint8).reshape(height, -1)
    image = np.zeros((height, width * channels), np.uint8)
    above = np.zeros(width * channels, np.uint8)
    for number in range(height):
        above = _unfiltered(int(rows[number, 0]), rows[number, 1:], above, channels)
        image[number] = above
    return image.reshape(height, width, channels)[:, :, :3]


def _chunks(png: bytes, wanted: bytes) -> Iterator[bytes]:
    at = 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == wanted:
            yield png[at + 8 : at + 8 + length]
        at += length + 12


def _unfiltered(kind: int, row: Pixels, above: Pixels, channels: int) -> Pixels:
    """A row of a PNG without its filter (PNG 1.2, section 6)."""
    if kind == 0:
        return row.copy()
    if kind == 1:
        return np.cumsum(row.reshape(-1, channels), axis=0, dtype=np.uint8).reshape(-1)
    if kind == 2:
        return row + above
    plain, up = bytearray(row.tobytes()), above.tobytes()
    for at, value in enumerate(plain):
        left = plain[at - channels] if at >= channels else 0
        corner = up[at - channels] if at >= channels else 0
        guess = (left + up[at]) // 2 if kind == 3 else _paeth(left, up[at], corner)
        plain[at] = (value + guess) & 255
    return np.frombuffer(bytes(plain), np.uint8)


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda each: abs(guess - each))


def palette_of(images: Sequence[Pixels]) -> Pixels:
    """The most frequent colours of the images."""
    counted: dict[int, int] = {}
    for image in images:
        packed = _packed(image)
        for colour, times in zip(*np.unique(packed, return_counts=True), strict=True):
            counted[int(colour)] = counted.get(int(colour), 0) + int(times)
    ranked = sorted(counted, key=lambda colour: -counted[colour])
    # A small sign may have a colour that is like no frequent one: the rest is the most frequent of each part of the cube.
    chosen, taken = ranked[:FREQUENT], set(map(_part, ranked[:FREQUENT]))
    for colour in ranked[FREQUENT:]:
        if len(chosen) < COLOURS and _part(colour) not in taken:
            chosen.append(colour)
            taken.add(_part(colour))
    return np.array([(colour >> 16, colour >> 8 & 255, colour & 255) for colour in chosen], np.uint8)


def _part(colour: int) -> int:
    """One of 512 parts of the cube of colours."""
    return colour & 0xE0E0E0


def _packed(image: Pixels) -> NDArray[np.uint32]:
    wide = image.astype(np.uint32)
    return (wide[:, :, 0] << 16) | (wide[:, :, 1] << 8) | wide[:, :, 2]


def indexed(image: Pixels, palette: Pixels) -> Pixels:
    """The number of the nearest colour of the palette for each pixel."""
    colours, places = np.unique(_packed(image), return_inverse=True)
    parts = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1).astype(np.int32)
    distances = ((parts[:, None, :] - palette.astype(np.int32)[None, :, :]) ** 2).sum(axis=2)
    return distances.argmin(axis=1).astype(np.uint8)[places].reshape(image.shape[:2])


def lzw(numbers: bytes) -> bytes:
    """The numbers as LZW codes of growing length, in sub-blocks of 255 bytes."""
    clear, end = 1 << BITS, (1 << BITS) + 1
    packed, held, size = bytearray(), 0, 0
    table: dict[tuple[int, int], int] = {}
    width, following = BITS + 1, end + 1

    def write(code: int) -> None:
        nonlocal held, size
        held |= code << size
        size += width
        while size >= 8:
            packed.append(held & 255)
            held, size = held >> 8, size - 8

    write(clear)
    prefix = numbers[0]
    for number in numbers[1:]:
        if (known := table.get((prefix, number))) is not None:
            prefix = known
            continue
        write(prefix)
        table[prefix, number] = following
        following += 1
        if following > 1 << width and width < 12:
            width += 1
        elif following > 4095:
            write(clear)
            table, width, following = {}, BITS + 1, end + 1
        prefix = number
    write(prefix)
    write(end)
    packed += bytes([held & 255]) if size else b""
    blocks = (packed[at : at + 255] for at in range(0, len(packed), 255))
    return b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def gif(frames: Iterable[Frame]) -> bytes:
    """The frames as one GIF that is repeated for ever. A frame has only the rectangle that differs from the one before."""
    shown = list(frames)
    images = [pixels_of(frame.png) for frame in shown]
    palette = palette_of(images)
    height, width = images[0].shape[:2]
    table = palette.tobytes() + bytes(3 * (COLOURS - len(palette)))
    parts = [b"GIF89a", struct.pack("<HHBBB", width, height, 0x80 | 0x70 | (BITS - 1), 0, 0), table]
    parts.append(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")
    before: Pixels | None = None
    for frame, image in zip(shown, images, strict=True):
        now = indexed(image, palette)
        top, bottom, left, right = _changed(before, now)
        parts.append(b"\x21\xf9\x04\x04" + struct.pack("<H", round(frame.seconds * 100)) + b"\0\0")
        parts.append(b"\x2c" + struct.pack("<HHHHB", left, top, right - left, bottom - top, 0) + bytes([BITS]))
        parts.append(lzw(now[top:bottom, left:right].tobytes()))
        before = now
    return b"".join([*parts, b"\x3b"])


def _changed(before: Pixels | None, now: Pixels) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what differs. One pixel if nothing does."""
    if before is None:
        return 0, now.shape[0], 0, now.shape[1]
    rows, columns = np.nonzero(before != now)
    if not len(rows):
        return 0, 1, 0, 1
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1

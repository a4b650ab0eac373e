"""A small, true H.264 MP4 made by hand: one flat colour, any size and length. Needs no codec
library.

Baseline profile. One intra frame comes first: its first macroblock is raw samples, the others
predict from their neighbours. Then frames that skip every macroblock. Sections named in comments
are those of ITU-T H.264 and ISO/IEC 14496-12.
"""

from __future__ import annotations

import struct
from functools import lru_cache

_FRAMES_PER_SECOND = 4
_TIMESCALE = 1000


def stub_video(*, width: int, height: int, seconds: int, seed: int, size: int = 0) -> bytes:
    """Return the MP4; the same arguments give the same bytes.

    `width` and `height` are even pixels; `size` is the least number of bytes, filled up with an
    ignored box. The index stands before the pictures, but at the end of a file that was filled up.
    Wherever that is cut, it is no whole video.
    """
    front, back = _template(width, height, seconds, padded=False)
    if size > len(front) + len(back):
        front, back = _template(width, height, seconds, padded=True)
        front += _box(b"free", bytes(max(0, size - len(front) - len(back) - 8)))
    # Only a comment and the raw macroblock depend on the seed. Both have a fixed length: the rest
    # is kept.
    video = (front + back).replace(_colour(0), _colour(seed), 1)
    return video.replace(_comment(0), _comment(seed), 1)


@lru_cache(maxsize=64)
def _template(width: int, height: int, seconds: int, *, padded: bool) -> tuple[bytes, bytes]:
    """Return what stands before a filling and what stands after it."""
    samples = _samples(width, height, seconds * _FRAMES_PER_SECOND)
    parameters = _sequence_parameters(width, height), _picture_parameters()
    head = _box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41") + _box(b"free", _comment(0))
    pictures = _box(b"mdat", b"".join(samples))
    if padded:
        return head + pictures, _moov(width, height, samples, parameters, len(head) + 8)
    moov_size = len(_moov(width, height, samples, parameters, 0))
    return head + _moov(width, height, samples, parameters, len(head) + moov_size + 8), pictures


def _comment(seed: int) -> bytes:
    return b"sandbox %020d" % seed


def _colour(seed: int) -> bytes:
    """Return a macroblock of raw samples; none is zero, so that no emulation prevention is ever
    needed inside.
    """
    luma, blue, red = (64 + (seed >> shift) % 128 for shift in (0, 7, 14))
    return bytes([luma]) * 256 + bytes([blue]) * 64 + bytes([red]) * 64


class _Bits:
    """A bit string under construction, with the codes of H.264, section 9.1."""

    def __init__(self) -> None:
        self._text: list[str] = []

    def u(self, width: int, value: int) -> _Bits:
        """Append an unsigned number of a fixed width."""
        self._text.append(f"{value:0{width}b}")
        return self

    def ue(self, value: int) -> _Bits:
        """Append an unsigned number in Exp-Golomb code; small signed ones that are zero look the
        same.
        """
        digits = f"{value + 1:b}"
        self._text.append("0" * (len(digits) - 1) + digits)
        return self

    def align(self) -> _Bits:
        """Fill the last byte."""
        self._text.append("0" * (-sum(map(len, self._text)) % 8))
        return self

    def raw(self, data: bytes) -> _Bits:
        """Append whole bytes."""
        self._text.extend(f"{byte:08b}" for byte in data)
        return self

    def nal(self, header: int) -> bytes:
        """Return the unit with its stop bit, alignment and emulation prevention (section 7.4.1)."""
        bits = "".join(self.u(1, 1).align()._text)
        payload = int(bits, 2).to_bytes(len(bits) // 8, "big")
        out, zeros = bytearray([header]), 0
        for byte in payload:
            if zeros == 2 and byte <= 3:
                out.append(3)
                zeros = 0
            out.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return bytes(out)


def _macroblocks(width: int, height: int) -> tuple[int, int]:
    return -(-width // 16), -(-height // 16)


def _sequence_parameters(width: int, height: int) -> bytes:
    across, down = _macroblocks(width, height)
    bits = _Bits().u(8, 66).u(8, 0xC0).u(8, 40)  # baseline, constraint sets 0 and 1, level 4.0
    # frame_num of 4 bits; output order is decoding order; one reference.
    bits.ue(0).ue(0).ue(2).ue(1).u(1, 0)
    bits.ue(across - 1).ue(down - 1).u(1, 1).u(1, 1)
    # Cropping.
    bits.u(1, 1).ue(0).ue((across * 16 - width) // 2).ue(0).ue((down * 16 - height) // 2)
    return bits.u(1, 0).nal(0x67)


def _picture_parameters() -> bytes:
    bits = _Bits().ue(0).ue(0).u(1, 0).u(1, 0).ue(0).ue(0).ue(0).u(1, 0).u(2, 0)
    # The slices say that nothing is deblocked.
    return bits.ue(0).ue(0).ue(0).u(1, 1).u(1, 0).u(1, 0).nal(0x68)


def _intra_frame(width: int, height: int) -> bytes:
    across, down = _macroblocks(width, height)
    bits = _Bits().ue(0).ue(7).ue(0).u(4, 0).ue(0).u(1, 0).u(1, 0).ue(0).ue(1)
    bits.ue(25).align().raw(_colour(0))  # I_PCM
    for address in range(1, across * down):
        # I_16x16 with DC prediction and no residual. Beside raw samples "no coefficient" is a
        # longer code (table 9-5).
        beside_raw = address == 1 or address == across
        bits.ue(3).ue(0).ue(0).u(6 if beside_raw else 1, 3 if beside_raw else 1)
    return bits.nal(0x65)


def _skip_frame(width: int, height: int, number: int) -> bytes:
    across, down = _macroblocks(width, height)
    bits = _Bits().ue(0).ue(5).ue(0).u(4, number % 16).u(1, 0).u(1, 0).u(1, 0).ue(0).ue(1)
    return bits.ue(across * down).nal(0x41)


def _samples(width: int, height: int, count: int) -> list[bytes]:
    frames = [
        _intra_frame(width, height),
        *(_skip_frame(width, height, n) for n in range(1, count)),
    ]
    return [struct.pack(">I", len(frame)) + frame for frame in frames]


def _box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", len(body) + 8) + kind + body


def _full(kind: bytes, flags: int, *content: bytes) -> bytes:
    return _box(kind, struct.pack(">I", flags), *content)


_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def _moov(
    width: int, height: int, samples: list[bytes], parameters: tuple[bytes, bytes], offset: int
) -> bytes:
    length = len(samples) * _TIMESCALE // _FRAMES_PER_SECOND
    times = struct.pack(">II", 0, 0)
    movie = _full(
        b"mvhd",
        0,
        times,
        struct.pack(">IIIH", _TIMESCALE, length, 0x10000, 0x100),
        bytes(10),
        _MATRIX,
        bytes(24),
        struct.pack(">I", 2),
    )
    track = _full(
        b"tkhd",
        3,
        times,
        struct.pack(">III", 1, 0, length),
        bytes(16),
        _MATRIX,
        struct.pack(">II", width << 16, height << 16),
    )
    media = _box(
        b"mdia",
        _full(b"mdhd", 0, times, struct.pack(">IIHH", _TIMESCALE, length, 0x55C4, 0)),
        _full(b"hdlr", 0, bytes(4), b"vide", bytes(12), b"VideoHandler\0"),
        _box(
            b"minf",
            _full(b"vmhd", 1, bytes(8)),
            _box(b"dinf", _full(b"dref", 0, struct.pack(">I", 1), _full(b"url ", 1))),
            _sample_table(width, height, samples, parameters, offset),
        ),
    )
    return _box(b"moov", movie, _box(b"trak", track, media))


def _sample_table(
    width: int, height: int, samples: list[bytes], parameters: tuple[bytes, bytes], offset: int
) -> bytes:
    sequence, picture = parameters
    avcc = _box(
        b"avcC",
        b"\1" + sequence[1:4] + b"\xff\xe1",
        struct.pack(">H", len(sequence)) + sequence,
        b"\1" + struct.pack(">H", len(picture)) + picture,
    )
    entry = _box(
        b"avc1",
        struct.pack(">6xH16xHHIIIH32xHh", 1, width, height, 0x480000, 0x480000, 0, 1, 24, -1),
        avcc,
    )
    count = len(samples)
    return _box(
        b"stbl",
        _full(b"stsd", 0, struct.pack(">I", 1), entry),
        _full(b"stts", 0, struct.pack(">III", 1, count, _TIMESCALE // _FRAMES_PER_SECOND)),
        _full(b"stss", 0, struct.pack(">II", 1, 1)),
        _full(b"stsc", 0, struct.pack(">IIII", 1, 1, count, 1)),
        _full(b"stsz", 0, struct.pack(f">II{count}I", 0, count, *map(len, samples))),
        _full(b"stco", 0, struct.pack(">II", 1, offset)),
    )

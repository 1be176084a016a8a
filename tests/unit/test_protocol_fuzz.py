"""Frames, good and damaged; ATTEST_FUZZ_FRAMES says how many (default 1,000,000)."""

import os
import random

from attest.guest.agent.protocol import (
    HEADER,
    MAX_PAYLOAD,
    FrameParser,
    FrameType,
    ProtocolError,
    Result,
    decode_welcome,
)

_CHUNK = 65_536
_SESSION = (FrameType.HELLO, FrameType.WELCOME, FrameType.ERROR)
_SIZES = {FrameType.EOF: 0, FrameType.CANCEL: 0, FrameType.WINDOW: 4, FrameType.RESIZE: 4}


def _frame(rng: random.Random) -> bytes:
    type = rng.choice(list(FrameType))
    size = _SIZES.get(type, rng.choice((0, 1, 18, 40, 200)))
    stream = 0 if type in _SESSION else rng.randrange(1, 2**32)
    return HEADER.pack(0xA7, type, 0, 0, stream, size) + rng.randbytes(size)


def _damage(frame: bytes, rng: random.Random) -> bytes:
    data = bytearray(frame)
    match rng.randrange(4):
        case 0:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 1:
            del data[rng.randrange(len(data)) :]
        case 2:
            data[8:12] = rng.randbytes(4)
        case 3:
            data[rng.randrange(len(data)) : 0] = rng.randbytes(rng.randrange(20))
    return bytes(data)


def fuzz(count: int, seed: int) -> tuple[int, int]:
    """Feed ``count`` frames, one in twenty damaged; a refused stream begins anew with the next.

    Returns:
        How many frames came out, and how many streams were refused.

    Raises:
        AssertionError: The parser kept more than a frame and a piece of its input.
    """
    rng = random.Random(seed)
    parser, accepted, refused = FrameParser(), 0, 0
    for _ in range(count):
        frame = _frame(rng)
        damaged = rng.randrange(20) == 0
        try:
            for found in parser.feed(_damage(frame, rng) if damaged else frame):
                accepted += 1
                _decode(found.type, found.payload)
        except ProtocolError:
            refused += 1
            parser = FrameParser()
        assert len(parser._buffer) <= HEADER.size + MAX_PAYLOAD + _CHUNK
    return accepted, refused


def _decode(type: FrameType, payload: bytes) -> None:
    try:
        if type is FrameType.RESULT:
            Result.decode(payload)
        elif type is FrameType.WELCOME and len(payload) >= 18:
            decode_welcome(payload)
    except ProtocolError:
        pass  # what it must raise, and the only thing


def test_damaged_streams_are_refused_and_nothing_else_happens() -> None:
    count = int(os.environ.get("ATTEST_FUZZ_FRAMES", "1000000"))
    accepted, refused = fuzz(count, seed=1)
    assert accepted > count // 20
    assert refused > count // 200

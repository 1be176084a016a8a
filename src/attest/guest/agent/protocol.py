"""The agent protocol's wire format: frames, fields and their numbers. Nothing here does I/O.

`docs/agent-protocol.md` describes the protocol. Whatever comes from a guest is hostile: every
length is checked before anything is kept, and parsing takes time linear in the bytes that came.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple, Self

import msgspec

from attest.errors import UsageError
from attest.guest.channel import Welcome
from attest.support.text import plain_text

__all__ = [
    "ProtocolError",
    "Frame",
    "FrameParser",
    "Fields",
    "Result",
    "encode_frame",
    "decode_welcome",
    "encode_hello",
    "FrameType",
    "Operation",
    "Status",
]

VERSION: Final = 3
"""The version of the protocol that this module speaks."""

MAX_PAYLOAD: Final = 262_144
"""Bytes in a frame's payload, at most."""

MAX_DATA: Final = 65_536
"""Bytes in a DATA frame's payload, at most."""

WINDOW: Final = 262_144
"""Bytes that a stream may send before the receiver has said that it takes more."""

HEADER: Final = struct.Struct("<BBBBII")
NONCE_SIZE: Final = 16

_MAGIC: Final = 0xA7
_HELLO_MAGIC: Final = b"attest-agent\r\n\x1a\n"
_PADDING: Final = re.compile(rb"\0*")
_FIELD: Final = struct.Struct("<BI")
_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")

PADDING: Final = bytes(HEADER.size + MAX_PAYLOAD)
"""Completes any frame that an earlier session left half-sent."""


class ProtocolError(ValueError):
    """The agent sent something that the protocol does not allow."""


class FrameType(IntEnum):
    """What a frame is."""

    HELLO = 0x01
    WELCOME = 0x02
    OPEN = 0x03
    DATA = 0x04
    EOF = 0x05
    WINDOW = 0x06
    CANCEL = 0x07
    RESIZE = 0x08
    RESULT = 0x09
    ERROR = 0x0A
    NOTE = 0x0B


class Operation(IntEnum):
    """What an OPEN frame asks for."""

    EXEC = 1
    WAIT = 2
    PUT = 3
    GET = 4
    CONNECT = 5
    IDENTITY = 6
    POWER = 7
    INFO = 8


class Status(IntEnum):
    """How an operation ended."""

    DONE = 0
    EXITED = 1
    SIGNALLED = 2
    TIMED_OUT = 3
    CANCELLED = 4
    ERROR = 5


class ExecField(IntEnum):
    """Fields of an EXEC."""

    COMMAND = 1
    ARGUMENT = 2
    DIRECTORY = 3
    USER = 4
    ENVIRONMENT = 5
    TIME_LIMIT = 6
    PTY = 7
    FLAGS = 8


class ExecFlag(IntFlag):
    """Flags of an EXEC."""

    STDIN = 1
    LEAVE_BACKGROUND = 2
    STRICT = 4


class WaitField(IntEnum):
    """Fields of a WAIT."""

    KIND = 1
    SUBJECT = 2
    PORT = 3
    TIME_LIMIT = 4
    FLAGS = 5
    WANTED = 6
    ATTEMPT_LIMIT = 7


class WaitFlag(IntFlag):
    """Flags of a WAIT."""

    DATAGRAM = 1


class CopyField(IntEnum):
    """Fields of a PUT and a GET."""

    PATH = 1
    NAME = 2


class ConnectField(IntEnum):
    """Fields of a CONNECT."""

    ADDRESS = 1
    PORT = 2


class IdentityField(IntEnum):
    """Fields of an IDENTITY."""

    HOSTNAME = 1
    MACHINE_ID = 2
    HOSTS = 3
    INTERFACE = 4
    SEED = 5
    CLOCK = 6
    COPY = 7
    SSH_HOST_KEY = 8


class PowerField(IntEnum):
    """Fields of a POWER."""

    ACTION = 1


class WelcomeField(IntEnum):
    """Fields of a WELCOME."""

    AGENT_VERSION = 1
    BOOT_ID = 2
    INIT = 3
    SHELL = 4
    ARCHITECTURE = 5


class ResultField(IntEnum):
    """Fields of a RESULT."""

    STATUS = 1
    CODE = 2
    MESSAGE = 3
    ERRNO = 4
    VALUE = 5
    STATE = 6


class Frame(NamedTuple):
    """One frame as it came.

    Attributes:
        type: What it is.
        channel: The data channel of a DATA or EOF frame, else 0.
        stream: The operation it belongs to; 0 is the session itself.
        payload: The rest.
    """

    type: FrameType
    channel: int
    stream: int
    payload: bytes


def encode_frame(type: FrameType, stream: int, payload: bytes = b"", channel: int = 0) -> bytes:
    """The bytes of one frame.

    Raises:
        UsageError: The payload is too large for a frame.
    """
    limit = MAX_DATA if type is FrameType.DATA else MAX_PAYLOAD
    if len(payload) > limit:
        raise UsageError(
            f"a request to an agent has at most {limit} bytes, this one has {len(payload)}",
            hint="copy large content into the machine as a file",
        )
    return HEADER.pack(_MAGIC, type, channel, 0, stream, len(payload)) + payload


def encode_hello(nonce: bytes) -> bytes:
    """The frame that begins a session."""
    return encode_frame(FrameType.HELLO, 0, _HELLO_MAGIC + nonce + _U16.pack(VERSION))


def encode_window(stream: int, size: int) -> bytes:
    """The frame that lets the agent send ``size`` bytes more."""
    return encode_frame(FrameType.WINDOW, stream, _U32.pack(size))


def encode_terminal_size(rows: int, columns: int) -> bytes:
    """A terminal's size, as EXEC and RESIZE have it."""
    return struct.pack("<HH", rows, columns)


def decode_window(payload: bytes) -> int:
    """The number in a WINDOW frame, whose length the parser has checked."""
    size: int = _U32.unpack(payload)[0]
    return size


# Types that carry something else than 0 to MAX_PAYLOAD bytes: (least, most).
_SIZES: Final = {
    FrameType.DATA: (0, MAX_DATA),
    FrameType.EOF: (0, 0),
    FrameType.CANCEL: (0, 0),
    FrameType.WINDOW: (4, 4),
    FrameType.RESIZE: (4, 4),
}
_SESSION_TYPES: Final = frozenset({FrameType.HELLO, FrameType.WELCOME, FrameType.ERROR})
_TYPES: Final = {type.value: type for type in FrameType}


class FrameParser:
    """Turns a byte stream, cut anywhere, into frames.

    It holds at most one unfinished frame.

    Args:
        nonce: The nonce of a HELLO. Whatever comes before its WELCOME is discarded, and the
            WELCOME is the first frame. Without one the stream must begin with a frame.
    """

    def __init__(self, nonce: bytes | None = None) -> None:
        self._nonce = nonce
        self._buffer = bytearray()
        self.discarded = 0
        self.remains = b""
        """The last of the discarded bytes, to show to people."""

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """Take the next bytes of the stream; the result must be iterated to its end.

        Yields:
            The frames that the bytes complete.

        Raises:
            ProtocolError: The stream is malformed. The frames before that place have been yielded.
        """
        self._buffer += data
        if self._nonce is not None and not self._find_welcome(self._nonce):
            return
        position = 0
        try:
            while True:
                match = _PADDING.match(self._buffer, position)
                position = match.end() if match else position
                frame = self._next(position)
                if frame is None:
                    return
                position += HEADER.size + len(frame.payload)
                yield frame
        finally:
            del self._buffer[:position]

    def _next(self, position: int) -> Frame | None:
        buffer = self._buffer
        if len(buffer) - position < HEADER.size:
            if len(buffer) > position and buffer[position] != _MAGIC:
                raise _no_frame(buffer, position)
            return None
        magic, code, channel, reserved, stream, length = HEADER.unpack_from(buffer, position)
        if magic != _MAGIC or reserved:
            raise _no_frame(buffer, position)
        type = _check_header(code, channel, stream, length)
        end = position + HEADER.size + length
        if len(buffer) < end:
            return None
        return Frame(type, channel, stream, bytes(buffer[position + HEADER.size : end]))

    def _find_welcome(self, nonce: bytes) -> bool:
        found = self._buffer.find(nonce)
        while found >= 0 and not self._is_welcome(found - HEADER.size):
            found = self._buffer.find(nonce, found + 1)
        if found >= 0:
            self._discard(found - HEADER.size)
            self._nonce = None
            return True
        self._discard(len(self._buffer) - (HEADER.size + NONCE_SIZE - 1))
        return False

    def _is_welcome(self, position: int) -> bool:
        if position < 0:
            return False
        *head, length = HEADER.unpack_from(self._buffer, position)
        least = NONCE_SIZE + _U16.size
        return head == [_MAGIC, FrameType.WELCOME, 0, 0, 0] and least <= length <= MAX_PAYLOAD

    def _discard(self, size: int) -> None:
        if size > 0:
            self.discarded += size
            self.remains = bytes((self.remains + self._buffer[max(0, size - 200) : size])[-200:])
            del self._buffer[:size]


def _check_header(code: int, channel: int, stream: int, length: int) -> FrameType:
    type = _TYPES.get(code)
    if type is None:
        raise ProtocolError(f"frame of unknown type {code:#04x}")
    least, most = _SIZES.get(type, (0, MAX_PAYLOAD))
    if not least <= length <= most:
        raise ProtocolError(f"{type.name} frame of {length} bytes; allowed are {least} to {most}")
    if channel > (type in (FrameType.DATA, FrameType.EOF)):
        raise ProtocolError(f"{type.name} frame with flags {channel:#04x}")
    if (stream == 0) != (type in _SESSION_TYPES):
        raise ProtocolError(f"{type.name} frame on stream {stream}")
    return type


def _no_frame(buffer: bytearray, position: int) -> ProtocolError:
    found = bytes(buffer[position : position + HEADER.size]).hex(" ")
    return ProtocolError(f"no frame header where one was due: {found}")


class Fields:
    """Tagged values, as requests and answers carry them.

    The methods that add return the object itself; what is None is left out.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def raw(self, tag: int, value: bytes | None) -> Self:
        """Add bytes."""
        if value is not None:
            self._parts.append(_FIELD.pack(tag, len(value)) + value)
        return self

    def text(self, tag: int, value: str | None) -> Self:
        """Add text.

        Raises:
            UsageError: It has a NUL character, or cannot be written in UTF-8.
        """
        return self if value is None else self.raw(tag, _encode_text(value))

    def u32(self, tag: int, value: int | None) -> Self:
        """Add a number of 32 bits."""
        return self if value is None else self.raw(tag, _U32.pack(value))

    def u64(self, tag: int, value: int | None) -> Self:
        """Add a number of 64 bits."""
        return self if value is None else self.raw(tag, _U64.pack(value))

    def milliseconds(self, tag: int, seconds: float | None) -> Self:
        """Add a time limit; it is at least 1 ms, as 0 would be no time at all."""
        return self if seconds is None else self.u64(tag, max(1, round(seconds * 1000)))

    def encode(self) -> bytes:
        """The fields as they travel."""
        return b"".join(self._parts)


def _encode_text(value: str) -> bytes:
    if "\0" in value:
        raise UsageError(f"text for a machine cannot have a NUL character: {value[:200]!r}")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"text for a machine must be UTF-8: {value[:200]!r}") from error


def decode_fields(payload: bytes, tags: type[IntEnum]) -> dict[int, bytes]:
    """Fields that occur at most once each, by tag.

    Raises:
        ProtocolError: They are malformed, repeated, or have a tag that is not one of ``tags``.
    """
    known = frozenset(tags)
    fields: dict[int, bytes] = {}
    position = 0
    while position < len(payload):
        if len(payload) - position < _FIELD.size:
            raise ProtocolError("field cut short")
        tag, length = _FIELD.unpack_from(payload, position)
        position += _FIELD.size
        if tag not in known or tag in fields:
            raise ProtocolError(f"{'repeated' if tag in fields else 'unknown'} field {tag}")
        if length > len(payload) - position:
            raise ProtocolError(f"field {tag} of {length} bytes exceeds its frame")
        fields[tag] = payload[position : position + length]
        position += length
    return fields


class Result(msgspec.Struct, frozen=True):
    """How an operation ended.

    Attributes:
        status: The kind of end.
        code: Exit code or signal number.
        message: What went wrong.
        errno: The guest's error number, or 0.
        value: What the operation found out.
        state: What is known of a wait's subject.
    """

    status: Status
    code: int = 0
    message: str = ""
    errno: int = 0
    value: str = ""
    state: str = ""

    @classmethod
    def decode(cls, payload: bytes) -> Result:
        """Read a RESULT frame's payload.

        Raises:
            ProtocolError: It is malformed.
        """
        fields = decode_fields(payload, ResultField)
        number = _decode_u32(fields, ResultField.STATUS)
        if ResultField.STATUS not in fields or number > max(Status):
            raise ProtocolError(f"result with status {number}")
        return cls(
            status=Status(number),
            code=_decode_u32(fields, ResultField.CODE),
            message=_decode_text(fields.get(ResultField.MESSAGE, b"")),
            errno=_decode_u32(fields, ResultField.ERRNO),
            value=_decode_text(fields.get(ResultField.VALUE, b"")),
            state=_decode_text(fields.get(ResultField.STATE, b"")),
        )


def decode_welcome(payload: bytes) -> Welcome:
    """Read a WELCOME frame's payload; one of another version has nothing but that.

    Raises:
        ProtocolError: It is malformed.
    """
    version: int = _U16.unpack_from(payload, NONCE_SIZE)[0]
    if version != VERSION:
        return Welcome(version)  # fields of another version may look different
    fields = decode_fields(payload[NONCE_SIZE + _U16.size :], WelcomeField)
    return Welcome(version, *(_decode_text(fields.get(tag, b"")) for tag in WelcomeField))


def decode_note(payload: bytes) -> str:
    """The text of a NOTE frame, of which a person reads no more than 1,000 characters."""
    return _decode_text(payload[:4000])[:1000]


def decode_pairs(text: str) -> dict[str, str]:
    """``key=value`` lines; lines without a ``=`` are left out."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value for key, separator, value in pairs if separator}


def _decode_u32(fields: dict[int, bytes], tag: int) -> int:
    value = fields.get(tag, bytes(_U32.size))
    if len(value) != _U32.size:
        raise ProtocolError(f"field {tag} has {len(value)} bytes; a number has {_U32.size}")
    number: int = _U32.unpack(value)[0]
    return number


def _decode_text(value: bytes) -> str:
    return plain_text(value.decode(errors="replace"))

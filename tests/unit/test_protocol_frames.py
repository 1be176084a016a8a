"""The wire format: what is written can be read, however it is cut, and nonsense is refused."""

import contextlib
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attest.errors import UsageError
from attest.guest.agent.protocol import (
    HEADER,
    MAX_DATA,
    MAX_PAYLOAD,
    PADDING,
    VERSION,
    Fields,
    Frame,
    FrameParser,
    FrameType,
    ProtocolError,
    Result,
    ResultField,
    Status,
    WelcomeField,
    decode_welcome,
    encode_frame,
    encode_hello,
)
from attest.guest.channel import Welcome

NONCE = bytes(range(100, 116))

_fixed = {FrameType.EOF: 0, FrameType.CANCEL: 0, FrameType.WINDOW: 4, FrameType.RESIZE: 4}
_session = (FrameType.HELLO, FrameType.WELCOME, FrameType.ERROR)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    type = draw(st.sampled_from(FrameType))
    size = _fixed.get(type)
    payload = draw(st.binary(min_size=size or 0, max_size=300 if size is None else size))
    channel = draw(st.integers(0, 1)) if type in (FrameType.DATA, FrameType.EOF) else 0
    stream = 0 if type in _session else draw(st.integers(1, 2**32 - 1))
    return Frame(type, channel, stream, payload)


def encode(frame: Frame) -> bytes:
    return encode_frame(frame.type, frame.stream, frame.payload, frame.channel)


def parse(parser: FrameParser, data: bytes, cuts: list[int]) -> tuple[list[Frame], bool]:
    """The frames in ``data``, fed in pieces, and whether the parser refused the rest."""
    ends = [*sorted(min(cut, len(data)) for cut in cuts), len(data)]
    found, start = [], 0
    try:
        for end in ends:
            for frame in parser.feed(data[start:end]):
                found.append(frame)
            start = end
    except ProtocolError:
        return found, True
    return found, False


def welcome(nonce: bytes, version: int = VERSION, fields: bytes = b"") -> bytes:
    return encode_frame(FrameType.WELCOME, 0, nonce + struct.pack("<H", version) + fields)


cuts = st.lists(st.integers(0, 5000), max_size=20)


@given(st.lists(st.tuples(frames(), st.integers(0, 20)), max_size=20), cuts)
def test_frames_come_back_however_they_are_cut(
    sent: list[tuple[Frame, int]], cuts: list[int]
) -> None:
    data = b"".join(bytes(padding) + encode(frame) for frame, padding in sent)
    assert parse(FrameParser(), data, cuts) == ([frame for frame, _ in sent], False)


@given(st.binary(max_size=2000), cuts)
def test_any_bytes_mean_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    data = b"".join(HEADER.pack(0xA7, b % 12, b & 1, 0, b & 3, b % 70) for b in data[:40]) + data
    whole, refused = parse(FrameParser(), data, [])
    in_parts, refused_in_parts = parse(FrameParser(), data, cuts)
    assert in_parts == whole
    # Cut before a whole header, the first wrong byte is already enough to refuse.
    assert refused_in_parts or not refused


@given(st.binary(max_size=400), cuts)
def test_the_welcome_is_found_in_remains_of_an_earlier_session(
    remains: bytes, cuts: list[int]
) -> None:
    last = Frame(FrameType.RESULT, 0, 7, b"")
    echo = encode_hello(NONCE)  # a terminal would echo it; it is not the answer
    data = remains + echo + welcome(NONCE) + encode(last)
    parser = FrameParser(NONCE)
    (first, second), refused = parse(parser, data, cuts)
    assert not refused
    assert (first.type, first.payload[:16]) == (FrameType.WELCOME, NONCE)
    assert second == last
    assert parser.discarded == len(remains) + len(echo)


def test_another_sessions_welcome_is_no_answer() -> None:
    parser = FrameParser(NONCE)
    assert list(parser.feed(welcome(bytes(16)) + encode(Frame(FrameType.EOF, 0, 1, b"")))) == []


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(HEADER.pack(0x41, 4, 0, 0, 1, 0), id="magic"),
        pytest.param(HEADER.pack(0xA7, 0, 0, 0, 1, 0), id="type 0"),
        pytest.param(HEADER.pack(0xA7, 12, 0, 0, 1, 0), id="unknown type"),
        pytest.param(HEADER.pack(0xA7, 4, 2, 0, 1, 0), id="channel"),
        pytest.param(HEADER.pack(0xA7, 9, 1, 0, 1, 0), id="flags"),
        pytest.param(HEADER.pack(0xA7, 4, 0, 1, 1, 0), id="reserved"),
        pytest.param(HEADER.pack(0xA7, 4, 0, 0, 0, 0), id="data on the session's stream"),
        pytest.param(HEADER.pack(0xA7, 10, 0, 0, 1, 0), id="error on an operation's stream"),
        pytest.param(HEADER.pack(0xA7, 4, 0, 0, 1, MAX_DATA + 1), id="data too long"),
        pytest.param(HEADER.pack(0xA7, 9, 0, 0, 1, MAX_PAYLOAD + 1), id="result too long"),
        pytest.param(HEADER.pack(0xA7, 9, 0, 0, 1, 2**32 - 1), id="longest length"),
        pytest.param(HEADER.pack(0xA7, 5, 0, 0, 1, 1), id="eof with content"),
        pytest.param(HEADER.pack(0xA7, 6, 0, 0, 1, 3), id="short window"),
    ],
)
def test_a_malformed_header_is_refused_before_its_payload_comes(header: bytes) -> None:
    good = Frame(FrameType.DATA, 1, 5, b"before")
    found, refused = parse(FrameParser(), encode(good) + header, [])
    assert found == [good]
    assert refused


def test_the_parser_holds_one_unfinished_frame_at_most() -> None:
    parser = FrameParser()
    data = encode(Frame(FrameType.DATA, 0, 1, bytes(MAX_DATA))) * 16
    tracemalloc.start()
    try:
        for _ in range(32):
            for frame in parser.feed(data):
                del frame
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(data)


def test_the_search_for_a_welcome_keeps_nothing() -> None:
    parser = FrameParser(NONCE)
    noise = b"login: " * 10_000
    tracemalloc.start()
    try:
        for _ in range(100):
            assert list(parser.feed(noise)) == []
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2 * len(noise)
    assert len(parser.remains) == 200


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(encode(Frame(FrameType.EOF, 0, 1, b"")) + b"\0", id="tiny frames and padding"),
        pytest.param(PADDING, id="padding"),
    ],
)
def test_parsing_takes_time_in_proportion_to_the_bytes(hostile: bytes) -> None:
    # In one piece, a parser that moves what is left after each frame would copy a terabyte.
    data = hostile * ((4 << 20) // len(hostile))
    assert sum(len(frame.payload) for frame in FrameParser().feed(data)) == 0


def test_padding_completes_the_longest_frame() -> None:
    half = HEADER.pack(0xA7, FrameType.RESULT, 0, 0, 3, MAX_PAYLOAD)
    found, refused = parse(FrameParser(), half + PADDING + encode_hello(NONCE), [])
    assert [frame.type for frame in found] == [FrameType.RESULT, FrameType.HELLO]
    assert not refused


def test_a_frame_cannot_be_larger_than_the_protocol_has_it() -> None:
    with pytest.raises(UsageError, match="262145"):
        encode_frame(FrameType.OPEN, 1, bytes(MAX_PAYLOAD + 1))


def test_a_result_comes_back() -> None:
    fields = Fields().u32(1, Status.ERROR).text(3, "no such user").u32(4, 2).text(6, "a=b\nc=d")
    assert Result.decode(fields.encode()) == Result(
        Status.ERROR, message="no such user", errno=2, state="a=b\nc=d"
    )


def test_a_welcome_comes_back() -> None:
    fields = Fields()
    for tag in WelcomeField:
        fields.text(tag, f"value {tag}")
    payload = NONCE + struct.pack("<H", VERSION) + fields.encode()
    assert decode_welcome(payload) == Welcome(VERSION, *(f"value {tag}" for tag in WelcomeField))


def test_a_welcome_of_another_version_says_only_that() -> None:
    assert decode_welcome(NONCE + struct.pack("<H", VERSION + 1) + b"??") == Welcome(VERSION + 1)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="no status"),
        pytest.param(Fields().u32(1, 6).encode(), id="unknown status"),
        pytest.param(Fields().u32(1, 0).u32(1, 0).encode(), id="repeated"),
        pytest.param(Fields().u32(1, 0).u32(7, 0).encode(), id="unknown field"),
        pytest.param(Fields().u64(1, 0).encode(), id="number too long"),
        pytest.param(Fields().u32(1, 0).encode()[:-1], id="cut short"),
        pytest.param(Fields().u32(1, 0).encode() + b"\3", id="cut in a field's head"),
        pytest.param(Fields().u32(1, 0).encode() + b"\3\xff\xff\xff\xff", id="length of 4 GiB"),
    ],
)
def test_a_malformed_result_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        Result.decode(payload)


@given(st.binary(max_size=200))
def test_results_of_any_bytes_are_read_or_refused(payload: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert isinstance(Result.decode(payload).status, Status)


def test_text_from_a_guest_cannot_steer_a_terminal() -> None:
    fields = Fields().u32(1, 5).raw(ResultField.MESSAGE, b"\x1b[2Jgone\xff\x1b]0;title\x07\n")
    assert Result.decode(fields.encode()).message == "gone\ufffd\n"


@pytest.mark.parametrize("text", ["nul\0", "\udc80"])
def test_text_that_the_protocol_cannot_carry_is_the_users_error(text: str) -> None:
    with pytest.raises(UsageError):
        Fields().text(1, text)

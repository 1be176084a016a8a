"""One operation under way: its data in both directions, its flow control, and its result.

The channel's reader thread hands in what came, and never waits here; the user's threads take it
out. What has come and was not taken is bounded by the window, whatever the guest sends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from attest.errors import ChannelError
from attest.guest.agent.protocol import (
    MAX_DATA,
    WINDOW,
    FrameType,
    ProtocolError,
    Result,
    encode_frame,
    encode_window,
)
from attest.support.polling import deadline

__all__ = ["NOTE", "Limit", "Stream", "StreamEnded"]

NOTE: Final = 2
"""What `Stream.take` calls the channel of what the guest says of the operation, as UTF-8."""


class StreamEnded(Exception):
    """No more data can be sent: the operation has ended, or its input was ended before."""


class Limit:
    """How long an agent may take to answer, of which the host keeps count.

    Args:
        machine: The machine's name, for errors.
        what: What it was asked, for errors.
        timeout: The seconds that this may take in the guest; None for any.
        grace: The seconds beyond that, see `attest.guest.agent.channel.AgentChannel`.

    Attributes:
        until: When, on the monotonic clock, an agent that is alive would have answered.
    """

    def __init__(self, machine: str, what: str, timeout: float | None, *, grace: float) -> None:
        self._machine = machine
        self._what = what
        self._timeout = timeout
        self._grace = grace
        self.until = deadline(None if timeout is None else timeout + grace)

    @contextmanager
    def bound(self, until: float | None = None) -> Iterator[float | None]:
        """Bound a wait by the limit, and by a moment that may come earlier.

        Args:
            until: That moment, on the monotonic clock.

        Yields:
            The earlier of the two; None where there is neither.

        Raises:
            TimeoutError: What was waited for did not come by ``until``.
            ChannelError: It did not come within the limit.
        """
        moments = [moment for moment in (until, self.until) if moment is not None]
        end = min(moments, default=None)
        try:
            yield end
        except TimeoutError:
            if end == until:
                raise
            raise self._passed() from None

    def _passed(self) -> ChannelError:
        timeout = self._timeout or 0
        allowed = f", with {timeout:g} s for it" if timeout else ""
        return ChannelError(
            self._machine,
            f"the agent did not answer in {timeout + self._grace:g} s",
            attempts=[f"{self._what}{allowed}"],
        )


class Send(Protocol):
    """Sends a frame, see `attest.guest.agent.session.Session.send`."""

    def __call__(self, frame: bytes, until: float | None = None) -> None:
        """Send it."""


class Stream:
    """One operation under way.

    Args:
        number: Its stream number.
        send: Sends a frame.
        input_follows: The operation takes data.
        grace: The seconds in which an agent that is alive reads that the operation is to end.
    """

    def __init__(
        self, number: int, send: Send, *, input_follows: bool = True, grace: float
    ) -> None:
        self.number = number
        self.send = send
        """Sends a frame."""
        self._grace = grace
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._received = (bytearray(), bytearray())
        self._note = ""
        self._eof = [False, False]
        self._eof_taken = [False, False]
        self._writing = threading.Lock()
        self._input_follows = input_follows
        self._window_in = WINDOW
        self._window_out = WINDOW
        self._taken = 0
        self._last_taken = 1  # the two data channels take turns, so that neither holds up the other
        self._abandoned = False
        self._opened = False
        self._result: Result | None = None
        self._failure: Callable[[], ChannelError] | None = None

    # What the reader thread hands in

    def data_came(self, channel: int, data: bytes) -> None:
        """Keep the data for whoever takes it.

        Raises:
            ProtocolError: It is more than the window allows, or the data channel had ended.
        """
        with self._lock:
            self._window_in -= len(data)
            if self._window_in < 0 or self._eof[channel]:
                reason = "after its end" if self._eof[channel] else "beyond its window"
                raise ProtocolError(f"data on stream {self.number} {reason}")
            self._opened = True
            if not self._abandoned:
                self._received[channel].extend(data)
            self._changed.notify_all()

    def eof_came(self, channel: int) -> None:
        """No more data comes on this data channel."""
        with self._lock:
            self._eof[channel] = True
            self._changed.notify_all()

    def window_came(self, size: int) -> None:
        """The guest takes ``size`` bytes more."""
        with self._lock:
            self._window_out += size
            self._changed.notify_all()

    def note_came(self, text: str) -> None:
        """The guest says how the operation goes; the last word counts."""
        with self._lock:
            self._note = text
            self._changed.notify_all()

    def result_came(self, result: Result) -> None:
        """The operation has ended."""
        with self._lock:
            self._result = result
            self._changed.notify_all()

    def fail(self, failure: Callable[[], ChannelError]) -> None:
        """The session is over; ``failure`` makes the error that whoever waits here gets."""
        with self._lock:
            self._failure = failure
            self._changed.notify_all()

    # What the user's threads do

    @property
    def ended(self) -> bool:
        """The operation has ended, or its session has."""
        return self._result is not None or self._failure is not None

    def write(self, data: bytes | memoryview) -> None:
        """Send data, as fast as the guest takes it.

        Raises:
            StreamEnded: The operation has ended, or its input.
            ChannelError: The session has ended.
        """
        view = memoryview(data)
        with self._writing:
            while view:
                size = self._reserve(min(len(view), MAX_DATA))
                self.send(encode_frame(FrameType.DATA, self.number, bytes(view[:size])))
                view = view[size:]

    def write_eof(self) -> None:
        """Say that no more data is sent; nothing happens when the operation has ended."""
        with self._writing:
            if self._input_follows and not self.ended:
                self._input_follows = False
                self.send(encode_frame(FrameType.EOF, self.number))

    def take(self, until: float | None = None) -> tuple[int, bytes] | None:
        """The next data and its channel; empty data is that channel's end, which is told once.

        Whoever takes data says with `taken` when it is done with it, but for a `NOTE`.

        Args:
            until: When to give up, on the monotonic clock.

        Returns:
            None when the operation has ended and nothing is left, or nobody wants to know.

        Raises:
            TimeoutError: Nothing came in time.
            ChannelError: The session has ended.
        """
        with self._lock:
            while True:
                self._check()
                for channel in (1 - self._last_taken, self._last_taken):
                    if self._has_news(channel):
                        return channel, self._take_from(channel)
                if self._note:
                    note, self._note = self._note, ""
                    return NOTE, note.encode()
                if self._result is not None or self._abandoned:
                    return None
                self._wait(until)

    def taken(self, size: int) -> None:
        """Let the guest send ``size`` bytes more."""
        with self._lock:
            self._taken += size
            if self._taken < WINDOW // 2 or self.ended:
                return
            credit, self._taken = self._taken, 0
            self._window_in += credit
        self.send(encode_window(self.number, credit))

    def await_opened(self, until: float | None) -> bool:
        """Wait for the first data, which may be empty; False when the operation ended before."""
        with self._lock:
            while not self._opened and self._result is None:
                self._check()
                self._wait(until)
            return self._opened

    def result(self, until: float | None = None) -> Result:
        """Wait for the result.

        Raises:
            TimeoutError: It did not come in time.
            ChannelError: The session has ended.
        """
        with self._lock:
            while self._result is None:
                self._check()
                self._wait(until)
            return self._result

    def cancel(self) -> None:
        """End the operation; its result follows. Nothing happens when it has ended."""
        if not self.ended:
            self.send(encode_frame(FrameType.CANCEL, self.number), deadline(self._grace))

    def abandon(self) -> None:
        """End the operation, of which nobody wants to know any more."""
        with self._lock:
            self._abandoned = True
            for received in self._received:
                received.clear()
            self._changed.notify_all()
        self.cancel()

    def _reserve(self, size: int) -> int:
        with self._lock:
            while self._window_out == 0 and self._result is None and not self._abandoned:
                self._check()
                self._wait(None)
            self._check()
            if self._result is not None or self._abandoned or not self._input_follows:
                raise StreamEnded
            size = min(size, self._window_out)
            self._window_out -= size
            return size

    def _has_news(self, channel: int) -> bool:
        ended = self._eof[channel] and not self._eof_taken[channel]
        return bool(self._received[channel]) or ended

    def _take_from(self, channel: int) -> bytes:
        data = bytes(self._received[channel])
        self._received[channel].clear()
        self._eof_taken[channel] = not data
        self._last_taken = channel
        return data

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure()

    def _wait(self, until: float | None) -> None:
        left = None if until is None else until - time.monotonic()
        if (left is not None and left <= 0) or not self._changed.wait(left):
            raise TimeoutError("the guest sent nothing in time")

"""A wait under way in a guest, which the agent carries."""

from __future__ import annotations

from attest.errors import WaitFailed
from attest.guest.agent.protocol import Result, Status, decode_pairs
from attest.guest.agent.stream import Limit, Stream
from attest.guest.channel import WaitFor
from attest.support.polling import deadline

__all__ = ["Wait"]


class Wait:
    """A wait under way in a guest.

    Args:
        machine: The machine's name, for errors.
        stream: The wait's stream.
        wanted: What is waited for.
        limit: How long the agent may take to end it.
    """

    def __init__(self, machine: str, stream: Stream, wanted: WaitFor, limit: Limit) -> None:
        self._machine = machine
        self._stream = stream
        self._wanted = wanted
        self._limit = limit

    def cancel(self) -> None:
        """End the wait; `result` then raises `WaitFailed`."""
        self._stream.cancel()

    def result(self, timeout: float | None = None) -> str:
        """What was seen.

        Args:
            timeout: Seconds to wait for it here.

        Raises:
            TimeoutError: It has not come in ``timeout`` seconds; the wait goes on.
            WaitFailed: The time limit passed, or it cannot come any more.
            ChannelError: The session has ended.
        """
        try:
            with self._limit.bound(deadline(timeout)) as end:
                result = self._stream.result(end)
        except TimeoutError:
            raise
        except BaseException:
            self._stream.abandon()
            raise
        if result.status is Status.DONE:
            return result.value
        raise WaitFailed(self._machine, self._failed(result), state=decode_pairs(result.state))

    def _failed(self, result: Result) -> str:
        if result.status is Status.CANCELLED:
            return f"the wait for {self._wanted} was cancelled"
        return self._wanted.unmet(result.message, in_time=result.status is Status.TIMED_OUT)

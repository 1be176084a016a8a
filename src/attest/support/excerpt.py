"""What is shown of a text that may be long: its start and its end, and how much is between them."""

from __future__ import annotations

from typing import Final

from attest.support.text import plain_text

__all__ = ["Excerpt", "excerpt", "short_line"]

_LINE: Final = 500
"""Characters of a line that are shown in an error."""


def excerpt(text: str, most: int) -> str:
    """The text, or at most so many characters of it: mostly its start, and its end."""
    if len(text) <= most:
        return text
    start, end = most * 2 // 3, most // 3
    return f"{text[:start]}[… {len(text) - start - end:,} characters …]{text[-end:]}"


def short_line(line: str) -> str:
    """A line as errors show it: no longer than 500 characters, and what that leaves out."""
    return excerpt(line, _LINE)


class Excerpt:
    """The start and the end of an output as it comes, in bounded memory.

    Args:
        half: Bytes that are kept of each.
    """

    def __init__(self, half: int) -> None:
        self._half = half
        self._start = bytearray()
        self._end = bytearray()
        self._size = 0

    def add(self, data: bytes) -> None:
        """Take the next piece of the output."""
        self._size += len(data)
        if (room := self._half - len(self._start)) > 0:
            self._start += data[:room]
            data = data[room:]
        self._end += data[-self._half :]
        if len(self._end) > self._half:
            del self._end[: -self._half]

    def text(self) -> str:
        """What is shown of it, without control sequences; bytes that are no UTF-8 are replaced."""
        left_out = self._size - len(self._start) - len(self._end)
        if not left_out:
            return plain_text((self._start + self._end).decode(errors="replace"))
        both = (self._start, self._end)
        start, end = (plain_text(each.decode(errors="replace")) for each in both)
        return f"{start}\n[… {left_out:,} bytes are left out here …]\n{end}"

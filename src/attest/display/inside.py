"""A picture of what a guest shows, taken inside it: for guests without a display of QEMU's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from attest.display.picture import draw_text, from_pixels, open_picture
from attest.display.xwd import XwdError, decode
from attest.errors import reason_of

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["COMMAND", "X_ACCESS", "Seen", "understand"]

X_ACCESS: Final = r"""
if [ -z "${XAUTHORITY:-}" ] && [ ! -e ~/.Xauthority ]; then
  for process in /proc/[0-9]*; do
    read -r name 2>/dev/null < "$process/comm" || continue
    case $name in X*)
      file=$(tr '\0' '\n' < "$process/cmdline" | sed -n '/^-auth$/{n;p;}')
      if [ -n "$file" ]; then export XAUTHORITY="$file"; fi
    esac
  done
fi
"""
"""Lets clients of X in: display managers give their servers a secret, in a file that root reads."""

COMMAND: Final = rf"""
for socket in /tmp/.X11-unix/X*; do
  [ -S "$socket" ] || continue
  export DISPLAY=":${{socket##*/X}}"
  {X_ACCESS}
  if command -v xwd >/dev/null; then echo xwd; exec xwd -root -silent; fi
  if command -v import >/dev/null; then echo png; exec import -window root png:-; fi
  echo "the X server $DISPLAY can be seen with xwd (Debian: x11-apps) or ImageMagick" >&2
  exit 1
done
if [ -e /dev/fb0 ]; then
  cd /sys/class/graphics/fb0
  echo "fb $(cat virtual_size) $(cat bits_per_pixel) $(cat stride)"
  exec cat /dev/fb0
fi
if [ -e /dev/vcsu ]; then
  tty=$(cat /sys/class/tty/tty0/active)
  echo "vcs $(stty -F "/dev/$tty" size)"
  exec cat "/dev/vcsu${{tty#tty}}"
fi
echo "it has neither an X server, nor a frame buffer, nor a text console" >&2
exit 1
"""
"""Prints a line that says what follows, and what the guest shows."""


class Seen(msgspec.Struct, frozen=True):
    """What a guest shows: a picture, or the text of its console."""

    picture: Image
    text: str | None = None


def understand(output: bytes) -> Seen:
    """Decode what `COMMAND` has printed.

    Raises:
        ValueError: It is something else.
    """
    head, _, data = output.partition(b"\n")
    try:
        return _understand(head, data)
    except Exception as error:  # Pillow's are many
        raise ValueError(reason_of(error)) from None


def _understand(head: bytes, data: bytes) -> Seen:
    kind, *words = head.decode(errors="replace").replace(",", " ").split() or [""]
    if kind == "png":
        return Seen(open_picture(data))
    if kind == "xwd":
        try:
            return Seen(from_pixels(*decode(data)))
        except XwdError as error:
            raise ValueError(f"xwd: {error}") from None
    numbers = [int(word) for word in words]
    if kind == "fb":
        return Seen(_frame_buffer(*numbers, data=data))
    if kind == "vcs":
        lines = _console(*numbers, data=data)
        return Seen(draw_text(lines), "".join(f"{line.rstrip()}\n" for line in lines))
    raise ValueError(f"not understood: {head[:100]!r}")


def _frame_buffer(width: int, height: int, bits: int, stride: int, *, data: bytes) -> Image:
    if bits != 32:
        raise ValueError(f"the frame buffer has {bits} bits a pixel, not 32")
    if len(data) < height * stride:
        raise ValueError("the frame buffer is cut off")
    rows = (data[row * stride :][: width * 4] for row in range(height))
    return from_pixels(width, height, b"".join(rows))


def _console(rows: int, columns: int, *, data: bytes) -> list[str]:
    if len(data) < rows * columns * 4:
        raise ValueError("the text console is cut off")
    # Documentation/admin-guide/devices.txt: vcsu has a character of four bytes for each place.
    text = data.decode("utf-32-le", errors="replace").replace("\0", " ")
    return [text[row * columns :][:columns] for row in range(rows)]

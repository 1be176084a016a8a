"""The keys that type a character, by QEMU's names, on a keyboard of the United States."""

from __future__ import annotations

from typing import Final

__all__ = ["key_for"]

_NAMED: Final = {
    " ": "spc", "\n": "ret", "\t": "tab", "\b": "backspace", "\x1b": "esc",
    "-": "minus", "=": "equal", "[": "bracket_left", "]": "bracket_right", ";": "semicolon",
    "'": "apostrophe", "`": "grave_accent", "\\": "backslash", ",": "comma", ".": "dot",
    "/": "slash",
}  # fmt: skip

_SHIFTED: Final = dict(zip('!@#$%^&*()_+{}:"~|<>?', "1234567890-=[];'`\\,./", strict=True))


def key_for(character: str) -> str:
    """The key, or keys together, that type a character; the name of a key stays as it is."""
    if len(character) != 1:
        return character
    if character.isascii() and character.isupper():
        return f"shift-{character.lower()}"
    if plain := _SHIFTED.get(character):
        return f"shift-{_NAMED.get(plain, plain)}"
    return _NAMED.get(character, character)

"""Errors: what they say in a traceback and as a part of other messages, and that they travel."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import attest
from attest.errors import (
    AttestError,
    ChannelError,
    CommandFailed,
    HostError,
    ImageBuildError,
    MachineError,
    Terminated,
    WaitFailed,
    message_of,
    reason_of,
)
from attest.script.run import TimeLimit
from attest.support.text import last_lines

_EVIDENCE = {"stderr": ["no such file"], "stdout": []}
_ARGUMENTS: dict[type, tuple[list[Any], dict[str, Any]]] = {
    CommandFailed: (["web", "ls /x", 2, "", "no such file\n"], {"evidence": _EVIDENCE}),
    MachineError: (
        ["web", "it panicked"],
        {"console": ["Kernel panic"], "log": "/log", "attempts": ["vsock: refused"], "hint": "h"},
    ),
    ChannelError: (["web", "it closed"], {}),
    WaitFailed: (["web", "no port 80"], {"state": {"ActiveState": "failed"}, "evidence": {}}),
    ImageBuildError: (["mmdebstrap failed"], {"command": "mmdebstrap", "output": "E: x"}),
    TimeLimit: ([5.0, ["web: ready"]], {}),
    Terminated: ([], {}),
}
"""How to make an error of each class that takes more than a message."""


def _classes() -> Iterator[type[BaseException]]:
    """Every class of attest's errors, wherever it is."""
    for module in pkgutil.walk_packages(attest.__path__, "attest."):
        if module.name != "attest.__main__":
            importlib.import_module(module.name)
    waiting: list[type[BaseException]] = [AttestError, Terminated]
    while waiting:
        kind = waiting.pop()
        if kind.__module__.startswith("attest."):
            yield kind
        waiting += kind.__subclasses__()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MachineError("web", "it panicked", hint="look", console=["oops"]), "it panicked"),
        (WaitFailed("web", "no port", evidence={"seen": ["x"]}), "web: no port"),
        (HostError("no KVM", hint="use another host"), "no KVM"),
        (ValueError("not so"), "not so"),
        (TimeoutError(), "TimeoutError"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (EOFError(), "EOFError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_a_reason_is_one_sentence(error: BaseException, reason: str) -> None:
    assert reason_of(error) == reason
    assert message_of(error) in (reason, f"web: {reason}")


def test_the_text_of_a_failed_command_has_its_output() -> None:
    error = CommandFailed(
        "web", "ls /x", 2, "", "no such file\n",
        evidence={**_EVIDENCE, "last console lines of web": ["login:"]},
    )  # fmt: skip
    assert str(error) == (
        "web: command `ls /x` was required to succeed: exit code 2\n"
        "  stderr:\n  | no such file\n"
        "  last console lines of web:\n  | login:"
    )


def test_the_text_of_a_machines_error_has_its_console() -> None:
    positional, named = _ARGUMENTS[MachineError]
    assert str(MachineError(*positional, **named)) == (
        "web: it panicked\n  tried: vsock: refused\n"
        "  last console lines of web:\n  | Kernel panic\n  console log: /log\n  hint: h"
    )


@pytest.mark.parametrize("kind", list(_classes()), ids=lambda kind: kind.__qualname__)
def test_an_error_can_be_pickled(kind: type[BaseException]) -> None:
    positional, named = _ARGUMENTS.get(kind, (["why"], {}))
    error = kind(*positional, **named)
    error.add_note("a note")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert copy.args == error.args
    assert vars(copy) == vars(error)


def test_the_end_of_a_text() -> None:
    assert last_lines("") == last_lines("\n") == []
    assert last_lines("one\n\ntwo\n") == ["one", "", "two"]
    assert last_lines("\x1b[31mred\x1b[0m\r\n") == ["red"]
    assert last_lines("".join(f"{n}\n" for n in range(41))) == [
        "[… 1 lines before …]",
        *map(str, range(1, 41)),
    ]
    assert last_lines("x" * 5000) == ["[… 904 characters before …]", "x" * 4096]
    assert last_lines("x" * 3_000_000)[0] == "[… 2,995,904 characters before …]"
    assert last_lines("y" * 1_000_000 + "\nlast\n")[-1] == "last"
    assert last_lines("".join(f"{n}\n" for n in range(100_000)))[0] == "[… 99,960 lines before …]"

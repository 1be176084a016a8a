"""What users give to a machine's methods: a mistake is answered with the parameter's name."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest

from attest.errors import UsageError
from attest.events import EventLog
from attest.machine.contracts import MachineHost
from attest.machine.machine import Machine
from attest.script.driver import Driver
from attest.script.retry import retry
from attest.support import arguments
from attest.support.durations import seconds

_NO_DURATION = ["soon", None, True, -1, float("nan"), float("inf"), 1e30, timedelta(seconds=-1)]

_WAITS: dict[str, dict[str, Any]] = {
    "wait_until_succeeds": {"command": "true"},
    "wait_until_fails": {"command": "true"},
    "wait_for_open_port": {"port": 80},
    "wait_for_closed_port": {"port": 80},
    "wait_for_listening_port": {"port": 80},
    "wait_for_open_unix_socket": {"addr": "/x"},
    "wait_for_file": {"filename": "/x"},
    "wait_for_unit": {"unit": "x"},
    "wait_until_unit_finishes": {"unit": "x"},
    "wait_until_tty_matches": {"tty": "1", "regexp": "x"},
    "wait_for_x": {},
    "wait_for_window": {"regexp": "x"},
    "wait_for_text": {"regex": "x"},
    "wait_for_qmp_event": {"event_filter": bool},
}
"""What has a time limit, with what else it must be given."""


@pytest.fixture
def machine() -> Machine:
    """A machine that fails the test when it is started."""
    lifecycle: Any = SimpleNamespace(name="web")
    host = MachineHost(Path(), Path(), Path(), lambda *_: None, Path())
    return Machine(lifecycle, host, EventLog(), lambda *_: pytest.fail("not called"))


def refused(call: Callable[[], object], *, by: str) -> str:
    """What is expected, as the error says that names who refuses it, and what."""
    with pytest.raises(UsageError) as caught:
        call()
    name, _, expected = caught.value.message.partition(": expected ")
    assert name == by
    return expected


@pytest.mark.parametrize("method", _WAITS)
@pytest.mark.parametrize("timeout", _NO_DURATION)
def test_a_time_limit(machine: Machine, method: str, timeout: object) -> None:
    expected = refused(
        lambda: getattr(machine, method)(**_WAITS[method], timeout=timeout),
        by=f"web: {method}: timeout",
    )
    assert expected.startswith(("a number of seconds or a timedelta, found", "0 to 315360000 "))


def test_a_limit_of_an_attempt(machine: Machine) -> None:
    for method in ("wait_until_succeeds", "wait_until_fails", "wait_for_open_port"):
        refused(
            lambda method=method: getattr(machine, method)(  # type: ignore[misc]
                **_WAITS[method], attempt_timeout="x"
            ),
            by=f"web: {method}: attempt_timeout",
        )


@pytest.mark.parametrize(
    ("method", "given", "parameter"),
    [
        ("execute", {"command": "true", "timeout": "x"}, "timeout"),
        ("run", {"command": "true", "timeout": "x"}, "timeout"),
        ("wait_for_console_text", {"regex": "x", "timeout": "x"}, "timeout"),
        ("sleep", {"secs": None}, "secs"),
        ("send_chars", {"chars": "x", "delay": "x"}, "delay"),
        ("send_key", {"key": "x", "delay": -1}, "delay"),
    ],
)
def test_other_durations(
    machine: Machine, method: str, given: dict[str, Any], parameter: str
) -> None:
    refused(lambda: getattr(machine, method)(**given), by=f"web: {method}: {parameter}")


@pytest.mark.parametrize("port", ["80", 0, -1, 65_536, 80.0, True, None])
def test_a_port(machine: Machine, port: Any) -> None:
    for method in ("wait_for_open_port", "wait_for_closed_port", "wait_for_listening_port"):
        expected = refused(lambda: getattr(machine, method)(port), by=f"web: {method}: port")  # noqa: B023
        assert expected == f"1 to 65535, found {port!r}"
    if port != 0:  # any that is free
        refused(lambda: machine.forward_port(port), by="web: forward_port: host_port")
    refused(lambda: machine.forward_port(80, port), by="web: forward_port: guest_port")


@pytest.mark.parametrize(
    ("method", "given", "parameter"),
    [
        ("succeed", (["a"],), "command"),
        ("fail", (None,), "command"),
        ("execute", (b"true",), "command"),
        ("run", (b"true",), "command"),
        ("run", (None,), "command"),
        ("run", ([],), "command"),
        ("run", (["sleep", 3],), "command"),
        ("spawn", (["true"],), "command"),
        ("copy_from_host", ("", "/x"), "source"),
        ("copy_from_host", (None, "/x"), "source"),
        ("copy_from_host", (b"x", "/x"), "source"),
        ("copy_from_host", ("a\0b", "/x"), "source"),
        ("copy_from_host", (__file__, ""), "target"),
        ("copy_from_machine", (None,), "source"),
        ("copy_from_machine", ("",), "source"),
        ("wait_until_succeeds", (["a"],), "command"),
        ("wait_for_open_port", (80, ""), "addr"),
        ("wait_for_closed_port", (80, 4), "addr"),
        ("wait_for_listening_port", (80, "web"), "addr"),
        ("wait_for_listening_port", (80, ""), "addr"),
        ("wait_for_listening_port", (80, None, 1, "sctp"), "protocol"),
        ("wait_for_open_unix_socket", ("run/x",), "addr"),
        ("wait_for_file", (3,), "filename"),
        ("wait_for_unit", ("",), "unit"),
        ("wait_for_unit", ("x", 1000), "user"),
        ("wait_for_unit", ("x", None, 1, "actif"), "state"),
        ("wait_until_unit_finishes", (None,), "unit"),
        ("require_unit_state", ("x", "actif"), "require_state"),
        ("get_unit_info", (None,), "unit"),
        ("get_unit_property", ("x", ""), "property"),
        ("systemctl", (["status"],), "q"),
        ("start_job", ("",), "jobname"),
        ("get_tty_text", ("x; id",), "tty"),
        ("wait_until_tty_matches", ("tty1", "x"), "tty"),
        ("dump_tty_contents", (None,), "tty"),
        ("send_key", ("",), "key"),
        ("send_chars", (3,), "chars"),
        ("send_console", (b"x",), "chars"),
    ],
)
def test_what_is_no_good_text(
    machine: Machine, method: str, given: tuple[Any, ...], parameter: str
) -> None:
    refused(lambda: getattr(machine, method)(*given), by=f"web: {method}: {parameter}")


def test_a_link_local_address_without_its_interface(machine: Machine) -> None:
    with pytest.raises(
        UsageError, match=r"addr: a link-local address needs its interface"
    ) as caught:
        machine.wait_for_open_port(80, "[FE80::1]")
    assert caught.value.hint == "FE80::1%eth0"


def test_a_regular_expression(machine: Machine) -> None:
    for method, given, parameter in [
        ("wait_for_console_text", ("(",), "regex"),
        ("wait_for_text", ("(",), "regex"),
        ("wait_for_window", ("(",), "regexp"),
        ("wait_until_tty_matches", ("1", "("), "regexp"),
    ]:
        said = rf"^web: {method}: {parameter}: '\(' is no regular expression: missing \)"
        with pytest.raises(UsageError, match=said):
            getattr(machine, method)(*given)
    assert arguments.pattern("a", "x", re.IGNORECASE).search("A")
    compiled = re.compile("a")
    assert arguments.pattern(compiled, "x") is compiled


def test_retry() -> None:
    refused(lambda: retry(3), by="retry: fn")  # type: ignore[arg-type]
    refused(lambda: retry(lambda _: True, "x"), by="retry: timeout")  # type: ignore[arg-type]
    retry(lambda last: last, timedelta(milliseconds=1))


def test_polling_conditions() -> None:
    driver: Any = SimpleNamespace(cluster=SimpleNamespace(events=EventLog()))
    for name in ("interval", "seconds_interval"):
        refused(
            lambda: Driver.polling_condition(driver, **{name: "x"}),  # noqa: B023
            by=f"polling_condition: {name}",
        )
    condition = Driver.polling_condition(driver, interval=timedelta(seconds=1))(lambda: True)
    condition.wait(timedelta(seconds=1))
    refused(lambda: condition.wait(None), by=f"{condition.description}: wait: timeout")  # type: ignore[arg-type]


def test_what_is_right_is_taken() -> None:
    assert arguments.port(65_535, "x") == 65_535
    assert arguments.text("", "x") == ""
    assert arguments.name("a", "x") == "a"
    assert arguments.path(PurePosixPath("/a/b"), "x") == "/a/b"
    assert arguments.command_line(("a", "b"), "x") == ["a", "b"]
    assert seconds(timedelta(minutes=1), "x") == 60

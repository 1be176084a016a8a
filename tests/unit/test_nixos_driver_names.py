"""What is missing in attest of a driver of NixOS is found: here, of one with some names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nix.driver_names import Checkout, differences, main

_DRIVER = """
import datetime as dt

class Driver:
    vhost_vsock: object
    config: object

    def test_symbols(self):
        general_symbols = dict(start_all=self.start_all, {symbol}=self.start_all)
        return general_symbols

    def start_all(self): ...
    {method}

class BaseMachine:
    def execute(self, command, check_return=True, check_output=True, timeout=900): ...

class QemuMachine(BaseMachine):

    def __init__(self):
        self.{attribute} = None

    def wait_for_qmp_event(self, event_filter, timeout={timeout}): ...
    def shell_interact({shell}): ...
    @property
    def pid(self): ...
    def switch_root(self): ...
    def _of_its_own(self): ...
"""
_SAME = {
    "symbol": "os", "method": "def serial_stdout_on(self): ...", "attribute": "state_dir",
    "timeout": "60 * 10", "shell": "self, address=None",
}  # fmt: skip


def _checkout(directory: Path, **other: str) -> Path:
    sources = directory / "nixos/lib/test-driver/src/test_driver"
    sources.mkdir(parents=True)
    (sources / "driver.py").write_text(_DRIVER.format(**_SAME | other))
    return directory


@pytest.mark.parametrize("other", [{}, {"timeout": "dt.timedelta(minutes=10)"}])
def test_nothing_is_missing(tmp_path: Path, other: dict[str, str]) -> None:
    assert list(differences(Checkout(_checkout(tmp_path, **other)))) == []


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"symbol": "beam"}, ["beam: no such global", "beam: no row in the table"]),
        ({"method": "def beam(self): ..."}, ["Driver.beam: missing"]),
        (
            {"attribute": "beam"},
            ["QemuMachine.beam: no row in the table", "QemuMachine.beam: missing"],
        ),
        (
            {"timeout": "dt.timedelta(minutes=15)"},
            [
                "QemuMachine.wait_for_qmp_event: `timeout` is 600, "
                "there datetime.timedelta(seconds=900)"
            ],
        ),
        (
            {"shell": "self, address=None, port=22"},
            ["QemuMachine.shell_interact: no parameter `port`"],
        ),
        (
            {"method": "def create_machine(self, *, name=None): ..."},
            ["Driver.create_machine: `start_command` is required, and not there"],
        ),
        (
            {"method": "def retry(self, timeout=900, fn=None): ..."},
            [
                "Driver.retry: `timeout` is not parameter 1",
                "Driver.retry: `fn` is required, there None",
            ],
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, other: dict[str, str], found: list[str]) -> None:
    assert [*differences(Checkout(_checkout(tmp_path, **other)))] == found


def test_the_command_says_it_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(_checkout(tmp_path / "same"))]) == 0
    assert capsys.readouterr().out == "attest has all of it\n"
    assert main([str(_checkout(tmp_path / "other", symbol="beam"))]) == 1
    assert capsys.readouterr().out.startswith("beam: no such global\n")
    with pytest.raises(FileNotFoundError, match="no class Driver in it"):
        main([str(tmp_path / "empty")])

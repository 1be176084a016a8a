"""Which Python runs NixOS's own driver in the benchmarks, and what is said where none can."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import driver_python

MakeDriver = Callable[..., Path]
MakePython = Callable[[str, str], Path]


@pytest.fixture
def driver(tmp_path: Path) -> MakeDriver:
    def make(source: str = "", project: str = "", beside: str = ".") -> Path:
        package = tmp_path / "driver" / "src" / "test_driver"
        package.mkdir(parents=True)
        (package / "machine.py").write_text(source)
        (tmp_path / "driver" / beside / "pyproject.toml").write_text(project)
        return tmp_path / "driver"

    return make


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePython:
    """Makes a Python of some version; those that are made are all there are."""
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.setenv("PATH", str(path))

    def make(name: str, version: str) -> Path:
        tell = f"import platform; platform.python_version = lambda: {version!r}; exec("
        (path / name).write_text(
            "#!/bin/sh\n"
            'while [ "$1" != -c ]; do shift; done\n'
            "code=$2\nshift 2\n"
            f"export code\nexec {sys.executable} -c \"{tell}__import__('os').environ['code'])\" "
            '"$@"\n'
        )
        (path / name).chmod(0o755)
        return path / name

    return make


def test_the_newest_is_taken(driver: MakeDriver, python: MakePython) -> None:
    python("python3", "3.9.2")
    newest = python("python3.13", "3.13.1")
    python("python3.12", "3.12.11")
    assert driver_python.choose(driver()).path == str(newest)


def test_a_version_that_is_too_new_is_not_taken(driver: MakeDriver, python: MakePython) -> None:
    python("python3.13", "3.13.1")
    older = python("python3.12", "3.12.11")
    project = '[project]\nrequires-python = ">=3.11, <3.13"'
    assert driver_python.choose(driver("", project)).path == str(older)


def test_a_name_that_does_not_run_is_passed_over(
    driver: MakeDriver, python: MakePython, tmp_path: Path
) -> None:
    there = python("python3.12", "3.12.11")
    shim = tmp_path / "bin" / "python3.13"
    shim.write_text("#!/bin/sh\necho not chosen >&2\nexit 127\n")
    shim.chmod(0o755)
    assert driver_python.choose(driver()).path == str(there)


def said(driver: Path, asked: Callable[[Path], object] = driver_python.choose) -> str:
    with pytest.raises(SystemExit) as exit:
        asked(driver)
    (line,) = str(exit.value).splitlines()
    return line


def test_none_is_new_enough(driver: MakeDriver, python: MakePython) -> None:
    python("python3", "3.11.2")
    python("python3.12", "3.12.11")
    checkout = driver("", '[project]\nrequires-python = ">=3.13"')
    assert said(checkout) == (
        f"--nixos-driver: {checkout} needs Python >=3.13, and found on PATH was 3.11.2, 3.12.11: "
        "put such a Python on PATH, or name the driver of an older nixpkgs"
    )


@pytest.mark.parametrize(
    ("project", "needs"),
    [('[tool.ruff]\ntarget-version = "py313"', ">=3.13"), ("", "of a newer version")],
    ids=["told to ruff", "told to nobody"],
)
def test_syntax_that_is_too_new(
    driver: MakeDriver, python: MakePython, project: str, needs: str
) -> None:
    python("python3", "3.11.2")
    checkout = driver("first = 1\nsecond ?= 2\n", project, "src")
    assert said(checkout) == (
        f"--nixos-driver: {checkout} needs Python {needs}, and found on PATH was 3.11.2 "
        f"({checkout}/src/test_driver/machine.py:2: invalid syntax): "
        "put such a Python on PATH, or name the driver of an older nixpkgs"
    )


def test_a_module_that_is_too_new(driver: MakeDriver) -> None:
    checkout = driver()
    package = checkout / "src/test_driver/__init__.py"
    package.touch()
    python = Path(sys.executable)
    driver_python.require_import(python, checkout)
    package.write_text("import of_tomorrow\n")
    assert said(checkout, lambda driver: driver_python.require_import(python, driver)) == (
        f"--nixos-driver: {python} cannot import {checkout}, ModuleNotFoundError: No module named "
        "'of_tomorrow': name the driver of another nixpkgs"
    )

"""What programs have said: remembered as long as they are the same, and never longer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from attest.vmm.answers import Program, recall, remember
from attest.vmm.program import ask

NAME = r"(\w+) \(GNU coreutils\)"
"""What coreutils' programs print first."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache = tmp_path / "cache/attest"
    cache.mkdir(parents=True)
    return cache


@pytest.fixture
def program(tmp_path: Path, cache: Path) -> Path:
    """A path that leads to a program of the host, which nobody has changed for long."""
    program = tmp_path / "program"
    program.symlink_to(system("cat"))
    return program


def system(name: str) -> Path:
    found = shutil.which(name)
    assert found
    return Path(found).resolve()


def name_of(program: Path) -> str:
    return ask(program, "--version", NAME)[1]


def forge(program: Path, text: str) -> None:
    """Let the program have said something else, by which it shows whether it is asked."""
    known = Program.at(program)
    assert known
    remember(known, "--version", text)


def test_a_program_that_is_the_same_is_not_asked_again(program: Path) -> None:
    assert name_of(program) == "cat"
    known = Program.at(program)
    assert known
    assert (recall(known, "--version") or "").startswith("cat (GNU coreutils)")
    forge(program, "remembered (GNU coreutils)")
    assert name_of(program) == "remembered"


def test_another_option_is_another_question(program: Path) -> None:
    forge(program, "remembered (GNU coreutils)")
    with pytest.raises(Exception, match="--help failed"):
        ask(program, "--help", NAME)


def test_a_program_that_was_replaced_is_asked(program: Path) -> None:
    forge(program, "remembered (GNU coreutils)")
    program.unlink()
    program.symlink_to(system("head"))
    assert name_of(program) == "head"


@pytest.mark.parametrize("place", range(5), ids=["device", "inode", "size", "mtime", "ctime"])
@pytest.mark.parametrize("field", ["program", "libraries"])
def test_a_file_that_differs_in_anything_is_another(program: Path, field: str, place: int) -> None:
    known = Program.at(program)
    assert known
    facts = list(getattr(known, field) or range(5))
    facts[place] += 1
    remember(replace(known, **{field: tuple(facts)}), "--version", "old (GNU coreutils)")
    assert recall(known, "--version") is None
    assert name_of(program) == "cat"


def test_a_file_that_has_just_changed_is_asked_each_time(tmp_path: Path, cache: Path) -> None:
    program = tmp_path / "program"
    shutil.copy(system("cat"), program)
    assert name_of(program) == "cat"
    shutil.copy(system("head"), program)
    assert name_of(program) == "head"
    assert list(cache.iterdir()) == []


def test_a_script_is_asked_each_time(tmp_path: Path, cache: Path) -> None:
    program, other = tmp_path / "program", tmp_path / "other"
    program.write_text(f"#!/bin/sh\ncat {other}\n")
    program.chmod(0o755)
    for name in ("first", "second"):
        other.write_text(f"{name} (GNU coreutils)\n")
        assert name_of(program) == name


def test_a_script_that_nobody_has_changed_for_long_is_asked_each_time() -> None:
    programs = (path for path in Path("/usr/bin").iterdir() if path.is_file())
    script = next(path for path in programs if path.read_bytes()[:2] == b"#!")
    assert Program.at(script) is None


def test_a_program_is_known_by_all_that_a_change_of_its_file_changes(program: Path) -> None:
    known, libraries = Program.at(program), Path("/etc/ld.so.cache")
    assert known
    for facts, file in ((known.program, program), (known.libraries, libraries)):
        if file.exists():
            status = file.stat()
            assert {
                status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns,
                status.st_ctime_ns,
            } == set(facts)  # fmt: skip


def fill(record: Path) -> None:
    record.write_bytes(b"\xff{")


def cut(record: Path) -> None:
    record.write_bytes(record.read_bytes()[:40])


def empty(record: Path) -> None:
    record.write_bytes(b"")


def say_nothing(record: Path) -> None:
    record.write_bytes(record.read_bytes().replace(b"GNU", b"XXX"))


def become_a_directory(record: Path) -> None:
    record.unlink()
    record.mkdir()


def lose_its_directory(record: Path) -> None:
    shutil.rmtree(record.parent)
    record.parent.touch()


@pytest.mark.parametrize(
    "spoil", [fill, cut, empty, say_nothing, become_a_directory, lose_its_directory]
)
def test_a_spoilt_cache_is_no_cache(
    program: Path, cache: Path, spoil: Callable[[Path], None]
) -> None:
    assert name_of(program) == "cat"
    (record,) = (cache / "answers").iterdir()
    spoil(record)
    assert name_of(program) == "cat"


def test_a_spoilt_answer_is_replaced(program: Path, cache: Path) -> None:
    assert name_of(program) == "cat"
    (record,) = (cache / "answers").iterdir()
    fill(record)
    assert name_of(program) == "cat"
    forge(program, "remembered (GNU coreutils)")
    assert name_of(program) == "remembered"
    assert list((cache / "answers").iterdir()) == [record]

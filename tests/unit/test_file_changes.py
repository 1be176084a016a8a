"""Which files are told to have changed, for each way in which a program can change one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attest.support.file_changes import FileChanges


@pytest.fixture
def changes() -> Iterator[FileChanges]:
    watched = FileChanges()
    yield watched
    watched.close()


def _rename_over(file: Path) -> None:
    new = file.with_name("other")
    new.write_text("new")
    new.rename(file)


def _remove_first(file: Path) -> None:
    file.unlink()
    file.write_text("new")


def _link_anew(file: Path) -> None:
    file.unlink()
    file.symlink_to(__file__)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_text("new"),
        _rename_over,
        _remove_first,
        _link_anew,
        lambda file: file.chmod(0o700),
        lambda file: file.unlink(),
    ],
)
def test_a_file_is_changed_once_however_that_is_done(
    tmp_path: Path, changes: FileChanges, change: Callable[[Path], object]
) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("old")
    changes.watch([file])
    change(file)
    assert changes.read() == {file}
    other.write_text("ignored")
    assert changes.read() == set()


def test_what_is_not_there_yet_is_watched_for(tmp_path: Path, changes: FileChanges) -> None:
    file = tmp_path / "a" / "b" / "file"
    changes.watch([file])
    file.parent.parent.mkdir()
    assert changes.read() == {file}
    changes.watch([file])
    file.parent.mkdir()
    assert changes.read() == {file}
    changes.watch([file])
    file.write_text("new")
    assert changes.read() == {file}


def test_a_directory_is_changed_by_what_is_in_it(tmp_path: Path, changes: FileChanges) -> None:
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    changes.watch([tree])
    (tree / "inner" / "file").write_text("new")
    assert changes.read() == {tree}
    for name in (".file.swp", "4913", "file~", ".#file"):  # what editors put there
        (tree / "inner" / name).write_text("")
    assert changes.read() == set()
    (tree / "inner" / "file").unlink()
    assert changes.read() == {tree}


def test_a_file_behind_a_link_is_watched(tmp_path: Path, changes: FileChanges) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("old")
    link = tmp_path / "link"
    link.symlink_to("real/file")
    changes.watch([link])
    (tmp_path / "real" / "file").write_text("new")
    assert changes.read() == {link}


def test_a_directory_that_goes_takes_its_files_along(tmp_path: Path, changes: FileChanges) -> None:
    file = tmp_path / "dir" / "file"
    file.parent.mkdir()
    file.write_text("old")
    changes.watch([file])
    os.rename(file.parent, tmp_path / "elsewhere")
    assert changes.read() == {file}
    changes.watch([file])
    os.rename(tmp_path / "elsewhere", file.parent)
    assert changes.read() == {file}
    changes.watch([file])
    file.write_text("new")
    assert changes.read() == {file}


def test_files_that_are_changed_together_are_one_change(
    tmp_path: Path, changes: FileChanges
) -> None:
    files = {tmp_path / str(number) for number in range(20)}
    changes.watch(files)
    for file in files:
        file.write_text("new")
    assert changes.read() == files


def test_a_file_is_waited_for_until_it_was_written(tmp_path: Path, changes: FileChanges) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    changes.watch([file])
    file.unlink()
    seen: list[set[Path]] = []
    reader = threading.Thread(target=lambda: seen.append(changes.read()))
    with file.open("w") as stream:
        reader.start()
        stream.write("new")
    reader.join()
    assert seen == [{file}]


def test_what_is_not_watched_any_more_is_not_told(tmp_path: Path, changes: FileChanges) -> None:
    one, two = tmp_path / "a" / "one", tmp_path / "b" / "two"
    for file in (one, two):
        file.parent.mkdir()
    changes.watch([one, two])
    changes.watch([two])
    one.write_text("new")
    two.write_text("new")
    assert changes.read() - {two} == set()

"""Files of this host that go into a machine: what makes them others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from attest.errors import ManifestError
from attest.node.host_files import HostFiles


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with a file, a link, and a directory."""
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "file").write_text("content")
    (tmp_path / "tree" / "sub" / "other").write_text("other")
    (tmp_path / "tree" / "link").symlink_to("file")
    return tmp_path / "tree"


def contents(tree: Path) -> tuple[str, ...]:
    return HostFiles("web", {"/srv/tree": "tree"}, tree.parent).contents()


def relink(tree: Path) -> None:
    (tree / "link").unlink()
    (tree / "link").symlink_to("sub")


def rewrite_with_old_time(tree: Path) -> None:
    status = (tree / "file").stat()
    (tree / "file").write_text("CONTENT")
    os.utime(tree / "file", ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree / "file").write_text("more content"),
        rewrite_with_old_time,
        lambda tree: (tree / "file").chmod(0o700),
        lambda tree: tree.chmod(0o700),
        lambda tree: (tree / "sub" / "other").rename(tree / "sub" / "another"),
        lambda tree: (tree / "sub" / "other").unlink(),
        lambda tree: (tree / "empty").mkdir(),
        relink,
    ],
)
def test_a_change_is_another_content(tree: Path, change: Callable[[Path], object]) -> None:
    before = contents(tree)
    change(tree)
    assert contents(tree) != before


def test_times_make_no_difference(tree: Path) -> None:
    before = contents(tree)
    for path in (tree, tree / "file"):
        os.utime(path, (1, 1))
    os.mkfifo(tree / "pipe")  # which is not copied
    assert contents(tree) == before


def test_it_is_the_content_that_counts_and_where_it_goes(tree: Path) -> None:
    (tree.parent / "same").symlink_to("tree")
    one, other = (
        HostFiles("web", {"/srv/tree": name}, tree.parent).contents() for name in ("tree", "same")
    )
    assert one == other
    assert HostFiles("web", {"/srv/moved": "tree"}, tree.parent).contents() != one
    assert one[0].startswith("/srv/tree ")


def test_directories_come_before_what_is_in_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    files = HostFiles("web", {"/srv/in/a": "a", "/srv/in": "b"}, tmp_path)
    assert [each.partition(" ")[0] for each in files.contents()] == ["/srv/in", "/srv/in/a"]
    assert files.sources["/srv/in"] == str(tmp_path / "b")


def test_what_is_gone_is_named_with_its_place(tree: Path) -> None:
    files = HostFiles("web", {"/srv/x": "tree/gone"}, tree.parent)
    with pytest.raises(ManifestError) as caught:
        files.contents()
    assert str(caught.value) == (
        f'nodes.web.files."/srv/x": cannot read {tree}/gone: No such file or directory'
    )

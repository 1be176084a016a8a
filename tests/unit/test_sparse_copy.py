"""Sparse copies of files."""

from __future__ import annotations

from pathlib import Path

from attest.support.sparse_copy import copy_sparse


def test_a_copy_can_be_written_though_the_file_cannot(tmp_path: Path) -> None:
    given, copy = tmp_path / "given", tmp_path / "copy"
    given.write_bytes(b"content")
    given.chmod(0o444)
    copy_sparse(copy, given)
    assert copy.read_bytes() == b"content"
    assert copy.stat().st_mode & 0o200

"""A VMM's working directory, which goes when the VMM ends, whatever the driver does there."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from attest.vmm.workdir import OpenWorkdir


def test_what_is_made_there_meanwhile_does_not_keep_it(tmp_path: Path) -> None:
    for _ in range(10):
        workdir = OpenWorkdir(tmp_path, "vmm-")
        for index in range(50):
            (workdir.path / str(index)).touch()
        busy = threading.Event()

        def prepare(workdir: OpenWorkdir = workdir, busy: threading.Event = busy) -> None:
            with suppress(FileNotFoundError):
                for index in range(100_000):
                    (workdir.path / f"snapshot{index}").mkdir()
                    busy.set()

        preparing = threading.Thread(target=prepare)
        preparing.start()
        assert busy.wait(30)
        workdir.remove()
        preparing.join()
        assert list(tmp_path.iterdir()) == []


def test_it_may_be_gone_already(tmp_path: Path) -> None:
    workdir = OpenWorkdir(tmp_path, "vmm-")
    workdir.remove()
    workdir.remove()
    assert list(tmp_path.iterdir()) == []

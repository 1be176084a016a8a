"""A cluster before its first machine: options, opening, closing."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from msgspec.structs import fields

from attest.cluster.addressing import free_names, hosts_file, next_number
from attest.cluster.cluster import Cluster
from attest.cluster.options import ClusterOptions, ClusterSettings
from attest.errors import UsageError
from attest.events import Event, EventLog
from attest.net.bridge import SPARE, Attachment
from tests.leftovers import Host


@pytest.fixture
def manifest(tmp_path: Path) -> dict[str, Any]:
    """A machine of a start script, which needs no image."""
    script = tmp_path / "run-web-vm"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    return {"nodes": {"web": {"start_command": str(script), "vlans": []}}}


def test_settings_are_the_options() -> None:
    names = [field.name for field in fields(ClusterOptions)]
    assert list(get_type_hints(ClusterSettings)) == names


def test_a_path_may_be_a_text(manifest: dict[str, Any], tmp_path: Path) -> None:
    options = Cluster(manifest, out_dir=str(tmp_path), snapshots="made", state_dir="").options
    assert options == ClusterOptions(out_dir=tmp_path, snapshots=Path("made"))


def test_a_setting_goes_before_the_options(manifest: dict[str, Any]) -> None:
    options = ClusterOptions(accelerator="tcg", cold=True)
    assert Cluster(manifest, options, cold=False).options == ClusterOptions(accelerator="tcg")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    host = Host(scratch)
    for variable in ("TMPDIR", "ATTEST_TEST_MARK"):
        monkeypatch.setenv(variable, host.environment[variable])
    return host


def test_a_cluster_that_was_not_opened_has_made_nothing(
    manifest: dict[str, Any], host: Host
) -> None:
    cluster = Cluster(manifest)
    with pytest.raises(UsageError, match="the cluster is not open"):
        cluster["web"]
    with pytest.raises(UsageError, match="the cluster is not open"):
        cluster.start_all()
    cluster.close()
    assert host.left() == []


def test_a_cluster_can_be_closed_twice_and_opened_again(manifest: dict[str, Any]) -> None:
    cluster = Cluster(manifest)
    assert cluster.open() is cluster is cluster.open()
    assert cluster["web"].name == "web"
    cluster.close()
    cluster.close()
    with cluster:
        assert cluster["web"].booted is False


def test_two_clusters_cannot_have_one_out_dir(manifest: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    second = Cluster(manifest, out_dir=out)
    with (
        Cluster(manifest, out_dir=out),
        pytest.raises(UsageError, match=f"{out} is in use by another run"),
    ):
        second.open()
    with second:  # what is left of the first is no obstacle
        assert second.out_dir == out


def test_what_an_error_interrupts_leaves_nothing(
    manifest: dict[str, Any], tmp_path: Path, host: Host
) -> None:
    (tmp_path / "out").write_text("a file in the way")
    cluster = Cluster(manifest, out_dir=tmp_path / "out" / "below")
    with pytest.raises(UsageError, match=r"out_dir: cannot make .*: Not a directory"):
        cluster.open()
    assert host.left() == []
    cluster.close()


def test_a_cluster_that_nobody_closed_is_a_warning(manifest: dict[str, Any]) -> None:
    cluster = Cluster(manifest).open()
    with pytest.warns(ResourceWarning, match="<cluster of web> was not closed"):
        cluster.__del__()  # what its collection calls
    cluster.close()
    cluster.__del__()


def test_a_machine_of_a_closed_cluster_does_not_start(manifest: dict[str, Any]) -> None:
    with Cluster(manifest) as cluster:
        machine = cluster["web"]
    for use in (machine.start, machine.connect, lambda: machine.run(["true"])):
        with pytest.raises(UsageError, match="the cluster is not open"):
            use()


def test_a_cluster_is_a_collection_of_names(manifest: dict[str, Any]) -> None:
    with Cluster(manifest) as cluster:
        assert list(cluster) == ["web"]
        assert "web" in cluster
        assert "wep" not in cluster
        assert len(cluster) == 1


def test_a_machine_that_was_created_does_not_come_back(
    manifest: dict[str, Any], host: Host
) -> None:
    cluster = Cluster(manifest)
    with cluster:
        cluster.create_machine("exit 1", name="extra")
        number = cluster._scripted.nodes["extra"].number
        cluster.create_machine("exit 1", name="extra")
        assert cluster._scripted.nodes["extra"].number == number
    with cluster:
        assert list(cluster) == ["web"]
    assert host.left() == []


def test_a_close_that_was_interrupted_can_be_made_again(
    manifest: dict[str, Any], host: Host
) -> None:
    interrupted = []

    def interrupt(event: Event) -> None:
        if event.text == "end the machines" and not interrupted:
            interrupted.append(event)
            raise KeyboardInterrupt

    events = EventLog()
    cluster = Cluster(manifest, events=events).open()
    events.subscribe(interrupt)
    with pytest.raises(KeyboardInterrupt):
        cluster.close()
    cluster.close()
    assert host.left() == []


def test_a_cluster_that_is_open_at_the_end_of_the_program_is_a_warning(
    manifest: dict[str, Any],
) -> None:
    program = f"import attest; kept = attest.Cluster({manifest!r}).open()"
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "ResourceWarning: <cluster of web> was not closed" in done.stderr


def test_threads_that_open_it_at_once_make_it_once(manifest: dict[str, Any]) -> None:
    cluster = Cluster(manifest)
    cells = []

    def open_it() -> None:
        cells.append(cluster.open()._cell)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cluster.close()
    assert len(set(map(id, cells))) == 1


def test_a_dictionary_without_a_start_command_is_refused(manifest: dict[str, Any]) -> None:
    with (
        Cluster(manifest) as cluster,
        pytest.raises(UsageError, match="the dictionary has no `startCommand`"),
    ):
        cluster.create_machine({"name": "other"})


# Addressing


def test_numbers_and_names_follow_those_that_are_taken() -> None:
    assert next_number([]) == 1
    assert next_number([1, 7, 3]) == 8
    assert free_names("web", 2, {"web", "web-1", "web-3"}) == ["web-2", "web-4"]


def test_a_hosts_file_begins_with_the_networks_that_both_are_on() -> None:
    places = {
        "a": [Attachment(SPARE, 1), Attachment(1, 1)],
        "b": [Attachment(2, 2), Attachment(1, 2)],
        "c": [Attachment(3, 3)],
        "d": [],
    }
    assert hosts_file("a", places).splitlines() == [
        "192.168.1.1 a",
        "192.168.1.2 b",
        "192.168.2.2 b",
        "192.168.3.3 c",
    ]

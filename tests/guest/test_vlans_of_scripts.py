"""Networks of machines of start scripts, in each of the ways in which they are made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import start_scripts

from attest.cluster.cluster import Cluster
from attest.errors import CommandFailed, UsageError
from attest.net.switches import find_vde_switch


def _without_vde_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attest.net.switches.find_vde_switch", lambda: None)


def _with_vde_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_vde_switch(), "`make setup` installs it"


@pytest.mark.parametrize("switch", [_without_vde_switch, _with_vde_switch])
def test_scripts_meet_on_vde_networks(
    switch: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    switch(monkeypatch)
    nodes: dict[str, dict[str, object]] = {
        # `c` is on its networks without its script's knowing, and has an agent's machine there.
        "a": {"start_command": str(start_scripts.write(tmp_path, "a", 1, [1, 2]))},
        "b": {"start_command": str(start_scripts.write(tmp_path, "b", 2, [1]))},
        "c": {"start_command": str(start_scripts.write(tmp_path, "c")), "vlans": [1]},
        "d": {"image": "debian", "vlans": [1]},
    }
    with Cluster({"nodes": nodes}, accelerator="tcg") as cluster:
        cluster.start_all()
        a, b, c, d = (cluster[name] for name in nodes)
        for machine in (a, b, c):
            machine.wait_for_unit("addresses.service")
        a.succeed("ping -c 2 -w 30 192.168.1.2")
        b.succeed("ping -c 2 -w 30 192.168.1.3", "ping -c 2 -w 30 192.168.1.4")
        c.succeed("ping -c 2 -w 30 192.168.1.1")
        d.succeed("ping -c 2 -w 30 b", "ping -c 2 -w 30 c")
        # Much at once, in frames that are larger than the wire's.
        b.succeed("systemd-run --quiet --unit sink sh -c 'nc -l 9000 | md5sum > /tmp/sum'")
        a.wait_until_succeeds("head -c 20000000 /dev/zero | nc -N 192.168.1.2 9000")
        b.wait_until_succeeds("grep $(head -c 20000000 /dev/zero | md5sum) /tmp/sum")
        a.block()
        b.fail("ping -c 1 -w 3 192.168.1.1")
        a.unblock()
        b.succeed("ping -c 2 -w 30 192.168.1.1")


def test_a_machine_that_is_made_by_the_script_finds_the_networks(tmp_path: Path) -> None:
    nodes = {"a": {"start_command": str(start_scripts.write(tmp_path, "a", 1, [1]))}}
    with Cluster({"nodes": nodes}) as cluster:
        command = str(start_scripts.write(tmp_path, "b", 2, [1]))
        b = cluster.create_machine(command)
        assert b.name == "b"
        cluster.start_all()
        cluster["a"].wait_for_unit("addresses.service")
        b.wait_for_unit("addresses.service")
        b.succeed("ping -c 2 -w 30 192.168.1.1", "echo kept | dd of=/dev/vdb conv=notrunc,fsync")
        with pytest.raises(UsageError, match="there is a machine 'b'"):
            cluster.create_machine(command)
        b.crash()
        again = cluster.create_machine({"startCommand": command, "name": "b", "keepVmState": True})
        assert again.succeed("head -c 5 /dev/vdb") == "kept\n"
        again.crash()
        anew = cluster.create_machine(command, name="b")
        with pytest.raises(CommandFailed):
            anew.succeed("head -c 5 /dev/vdb | grep kept")

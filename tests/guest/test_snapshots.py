"""Snapshots and checkpoints through the API that a script uses."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

import attest
from attest.cluster.cluster import Cluster
from attest.errors import ChannelError, CommandFailed, ManifestError, UsageError
from attest.guest.channel import WaitFor, WaitKind
from attest.machine.machine import Machine
from attest.support.concurrency import wait_all

_TINY = {"image": "tiny", "memory": 96}


@pytest.fixture
def pair() -> Iterator[Cluster]:
    """Two fresh tiny machines, `a` and `b`."""
    with Cluster({"nodes": {"a": _TINY, "b": _TINY}}, accelerator="tcg") as cluster:
        cluster.start_all()
        yield cluster


def test_a_machine_goes_back_as_often_as_one_likes(tiny: Machine) -> None:
    tiny.succeed("echo then > /note")
    snapshot = tiny.snapshot("then")
    assert tiny.succeed("cat /note; echo later > /note") == "then\n"  # it went on
    for _ in range(3):
        tiny.restore(snapshot)
        assert tiny.succeed("cat /note; echo later > /note") == "then\n"


def test_what_was_under_way_fails_and_says_why(tiny: Machine) -> None:
    snapshot = tiny.snapshot("calm")
    command = tiny.spawn("sleep 1000")
    waiting = tiny._lifecycle.ready().start_wait(
        WaitFor(WaitKind.FILE_EXISTS, "/never", timeout=900)
    )
    tiny.restore(snapshot)
    with pytest.raises(ChannelError, match="the machine was restored to 'calm'"):
        command.wait()
    with pytest.raises(ChannelError, match="the machine was restored to 'calm'"):
        waiting.result()
    assert tiny.succeed("echo back") == "back\n"


def test_a_forwarded_port_survives_a_restore(tiny: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    tiny.forward_port(port, 8081)
    snapshot = tiny.snapshot("then")
    tiny.restore(snapshot)
    tiny.spawn("echo hello | nc -l -p 8081")
    tiny.wait_for_open_port(8081)
    tiny.spawn("echo hello | nc -l -p 8081")  # the wait took the first
    tiny.wait_until_succeeds("netstat -ltn | grep -q :8081")
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        assert connection.makefile().read() == "hello\n"


def test_a_restored_machine_is_itself_at_the_time_that_it_is_now(pair: Cluster) -> None:
    a = pair["a"]
    before = a.succeed("hostname; cat /etc/machine-id; cat /sys/class/net/eth0/address")
    snapshot = a.snapshot("then")
    drawn = set()
    for _ in range(2):
        a.restore(snapshot)
        now, inside = time.time(), float(a.succeed("date +%s"))
        assert now - 2 <= inside <= time.time() + 1
        drawn.add(a.succeed("head -c 16 /dev/urandom | od -An -tx1"))
        a.succeed("ping -c1 -W5 b")
    assert a.succeed("hostname; cat /etc/machine-id; cat /sys/class/net/eth0/address") == before
    assert len(drawn) == 2


def test_clones_are_new_machines_that_all_know_by_name(pair: Cluster) -> None:
    a, b = pair["a"], pair["b"]
    a.succeed("echo inherited > /note")
    b.connect()
    snapshot = a.snapshot("then")
    clones = [*snapshot.clone(2), *attest.clone(snapshot, names=["extra"])]
    assert [clone.name for clone in clones] == ["a-1", "a-2", "extra"]
    names = wait_all(clones, lambda clone: clone.succeed("cat /note; hostname"))
    assert names == [f"inherited\n{clone.name}\n" for clone in clones]
    everybody = [a, b, *clones]
    for what in ("cat /sys/class/net/eth0/address", "cat /etc/machine-id", "hostname -i"):
        assert len({machine.succeed(what) for machine in everybody}) == len(everybody)
    b.succeed("ping -c1 -W5 extra")
    clones[0].succeed("ping -c1 -W5 a-2")
    assert pair["extra"] is clones[2]


def test_a_clone_needs_a_free_name(pair: Cluster) -> None:
    snapshot = pair["a"].snapshot("then")
    with pytest.raises(ManifestError, match=r"clone: nodes\.b: there is a nodes\.b"):
        attest.clone(snapshot, names=["b"])
    with pytest.raises(ManifestError, match="a name is a host name"):
        attest.clone(snapshot, names=["no name"])


def test_a_snapshot_is_of_one_machine(pair: Cluster) -> None:
    snapshot = pair["a"].snapshot("then")
    with pytest.raises(UsageError, match=r"snapshot 'then' of a.* cannot be restored as b"):
        pair["b"].restore(snapshot)


def test_disks_go_along() -> None:
    node = {**_TINY, "disks": [{"size": 16}, {"size": 8}]}
    with Cluster({"nodes": {"a": node}}, accelerator="tcg") as cluster:
        a = cluster["a"]
        disk = "/dev/vda" if a.execute("test -b /dev/vdc")[0] else "/dev/vdb"
        write = f"echo %s | dd of={disk} conv=notrunc,fsync 2>/dev/null"
        read = f"echo 3 > /proc/sys/vm/drop_caches; dd if={disk} bs=5 count=1 2>/dev/null"
        a.succeed(write % "then!")
        snapshot = a.snapshot("then")
        a.succeed(write % "later")
        assert a.succeed(read) == "later"
        a.restore(snapshot)
        assert a.succeed(read) == "then!"
        a.succeed(write % "again")
        one, two = snapshot.clone(2)
        one.succeed(write % "clone")
        assert [machine.succeed(read) for machine in (a, one, two)] == ["again", "clone", "then!"]
        # A power cut takes the memory, and leaves the disk.
        a.crash()
        assert a.succeed(read) == "again"
        a.restore(snapshot)
        assert a.succeed(read) == "then!"


def test_warm_steps_have_been_done_before_the_machine_starts() -> None:
    node = {**_TINY, "warm_steps": ["echo warm > /note", "cat /proc/uptime > /when"]}
    with Cluster({"nodes": {"a": node, "b": node}}, accelerator="tcg") as cluster:
        whens = [cluster[name].succeed("cat /when") for name in ("a", "b")]
        assert cluster["a"].succeed("cat /note") == "warm\n"
    assert whens[0] == whens[1]  # in one machine, once


def test_a_warm_step_that_fails_fails_the_start() -> None:
    node = {**_TINY, "warm_steps": ["true", "echo why >&2; exit 3"]}
    with (
        Cluster({"nodes": {"a": node}}, accelerator="tcg") as cluster,
        pytest.raises(CommandFailed, match="as a warm step: exit code 3") as caught,
    ):
        cluster["a"].connect()
    assert caught.value.stderr == "why\n"


def test_a_cluster_goes_back_together(pair: Cluster) -> None:
    for name in ("a", "b"):
        pair[name].succeed("echo then > /note")
    checkpoint = pair.checkpoint("both")
    for name in ("a", "b"):
        pair[name].succeed("echo later > /note")
    (extra,) = pair["a"].snapshot("more").clone()
    pair["b"].shutdown()
    pair.restore(checkpoint)
    assert [pair[name].succeed("cat /note") for name in ("a", "b")] == ["then\n", "then\n"]
    assert not extra.booted  # it was not there then
    pair["a"].succeed("ping -c1 -W5 b")


def test_clones_that_two_threads_make_at_once_are_all_different(tiny: Machine) -> None:
    snapshot = tiny.snapshot("base")
    clones = [each for made in wait_all(range(3), lambda _: snapshot.clone(2)) for each in made]
    assert len({clone.name for clone in clones}) == 6
    places = wait_all(clones, lambda clone: clone.succeed("cat /sys/class/net/eth0/address"))
    assert len({*places, tiny.succeed("cat /sys/class/net/eth0/address")}) == 7
    for clone in clones:
        hosts = clone.succeed("cat /etc/hosts").split()
        assert {each.name for each in clones} < set(hosts)


_SINK = "systemd-run --quiet --unit=sink sh -c 'nc -l 7000 > /root/got'"
_SOURCE = """cat > /root/source <<'END'
mkfifo /root/never; exec 3<> /root/never
i=0; while true; do i=$((i + 1)); echo $i; read -t 0.01 -u 3; done | nc b 7000
END
systemd-run --quiet --unit=source bash /root/source"""
_COUNT = "wc -l < /root/got"
_UNBROKEN = "awk '$1 != NR { print; exit 1 }' /root/got"


def test_a_tcp_stream_survives_checkpoint_and_restore() -> None:
    nodes = {"a": {"image": "debian"}, "b": {"image": "debian"}}
    with Cluster({"nodes": nodes}, accelerator="tcg") as cluster:
        a, b = cluster["a"], cluster["b"]
        b.succeed(_SINK)
        b.wait_until_succeeds("ss -ltn | grep -q :7000")
        a.succeed(_SOURCE)
        _await_lines(b, 30)
        checkpoint = cluster.checkpoint()
        at_least = int(b.succeed(_COUNT))
        _await_lines(b, at_least + 100)
        b.succeed(_UNBROKEN)
        for _ in range(2):
            b.succeed("touch /root/later")
            cluster.restore(checkpoint)
            b.fail("test -e /root/later")  # it went back
            _await_lines(b, at_least + 100)
            b.succeed(_UNBROKEN)


def _await_lines(machine: Machine, count: int) -> None:
    machine.wait_until_succeeds(f"test $({_COUNT}) -ge {count}", timeout=60)

"""Several real machines: who they are, and what they reach."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from pathlib import Path

import pytest

from attest.cluster.cluster import Cluster
from attest.errors import ChannelError, MachineError, ManifestError, UsageError
from attest.machine.machine import Machine
from attest.support.concurrency import wait_all
from attest.support.procfs import children


def test_each_machine_is_itself(debian: Cluster) -> None:
    for name in ("a", "b"):
        assert debian[name].succeed("hostname").strip() == name
    ids = {debian[name].succeed("cat /etc/machine-id") for name in ("a", "b")}
    assert len(ids) == 2


def test_machines_reach_each_other_by_name(debian: Cluster) -> None:
    debian["a"].succeed("ping -c1 -W5 b", "getent hosts b | grep -F 192.168.1.2")
    debian["b"].succeed("ping -c1 -W5 a")


def test_a_machine_on_two_networks_has_an_address_on_each(debian: Cluster) -> None:
    addresses = debian["b"].succeed("ip -brief -4 address")
    assert [each for each in ("192.168.1.2/24", "192.168.2.2/24") if each not in addresses] == []
    mac = debian["b"].succeed("cat /sys/class/net/eth1/address").strip()
    assert mac == "52:54:00:12:02:02"


def test_large_packets_pass_where_guests_want_them(debian: Cluster) -> None:
    ping = "ping -c 1 -W 5 -M do -s 8000 a"
    mtu = "cat /sys/class/net/eth0/mtu"
    assert [each.succeed(mtu) for each in (debian["a"], debian["b"])] == ["1500\n"] * 2
    debian["b"].fail(ping)
    for each in (debian["a"], debian["b"]):
        each.succeed("ip link set eth0 mtu 9000")
    debian["b"].succeed(ping)
    for each in (debian["a"], debian["b"]):
        each.succeed("ip link set eth0 mtu 1500")


def test_block_takes_the_network_away_and_unblock_gives_it_back(debian: Cluster) -> None:
    debian["b"].block()
    debian["a"].fail("ping -c1 -W1 b")
    debian["b"].unblock()
    debian["a"].wait_until_succeeds("ping -c1 -W1 b", timeout=30)


def test_the_clock_is_the_hosts(machine: Machine) -> None:
    before = time.time()
    inside = float(machine.succeed("date +%s.%N"))
    assert before - 1 <= inside <= time.time() + 1


def test_a_tree_goes_in_and_comes_back(machine: Machine, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "script").write_text("#!/bin/sh\n")
    (tree / "sub" / "script").chmod(0o750)
    (tree / "link").symlink_to("sub/script")
    os.utime(tree / "sub" / "script", ns=(1, 1_234_567_890_123_456_789))
    machine.succeed("rm -rf /root/tree")
    machine.copy_from_host(tree, "/root/tree")
    seen = machine.succeed("stat -c '%a %Y' /root/tree/sub/script; readlink /root/tree/link")
    assert seen == "750 1234567890\nsub/script\n"
    machine.copy_from_machine("/root/tree", "back")
    back = machine.out_dir / "back" / "tree"
    assert (back / "sub" / "script").stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert (back / "link").readlink() == Path("sub/script")


def test_a_large_file_keeps_its_content(machine: Machine, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 16
    (tmp_path / "large").write_bytes(content)
    machine.copy_from_host(tmp_path / "large", "/tmp/large")
    digest = hashlib.sha256(content).hexdigest()
    assert machine.succeed("sha256sum </tmp/large").split()[0] == digest
    machine.copy_from_machine("/tmp/large")
    assert (machine.out_dir / "large").read_bytes() == content
    machine.succeed("rm /tmp/large")


def test_a_swap_file_goes_in(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "swap").write_bytes(bytes(4 << 20))
    (tmp_path / "swap").chmod(0o600)
    machine.copy_from_host(tmp_path / "swap", "/swap")
    machine.succeed("mkswap /swap", "swapon /swap", "swapoff /swap")
    machine.copy_from_machine("/swap")
    assert (machine.out_dir / "swap").stat().st_blocks * 512 >= 4 << 20
    machine.succeed("rm /swap")


def test_a_forwarded_port_reaches_a_machine_without_a_network(machine: Machine) -> None:
    server = machine.spawn("while true; do echo hello | nc -lN 127.0.0.1 8081; done")
    machine.wait_until_succeeds("ss --listening --tcp --numeric | grep :8081")
    port = _free_port()
    machine.forward_port(port, 8081)
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        assert connection.makefile().read() == "hello\n"
    server.cancel()


def test_an_unknown_machine_is_answered_with_those_there_are(debian: Cluster) -> None:
    with pytest.raises(UsageError, match="a, b"):
        debian["c"]


def test_a_machine_goes_down_and_comes_back(tiny: Machine) -> None:
    tiny.succeed("touch /gone")
    tiny.shutdown()
    assert not tiny.booted
    assert "No such file" in tiny.execute("ls /gone 2>&1")[1]  # it starts by itself
    tiny.crash()
    assert not tiny.booted
    tiny.start()
    tiny.succeed("true")


def test_a_reboot_is_waited_for(tiny: Machine) -> None:
    tiny.start(allow_reboot=True)
    tiny.succeed("touch /gone")
    before = tiny.succeed("cat /proc/sys/kernel/random/boot_id")
    tiny.reboot()
    assert tiny.succeed("cat /proc/sys/kernel/random/boot_id") != before
    tiny.fail("test -e /gone")


def test_a_guest_whose_init_is_the_agent_leaves_as_one_of_busybox_does(tiny: Machine) -> None:
    boot = "cat /proc/sys/kernel/random/boot_id"
    for command in ("reboot", "reboot -f", "kill -INT 1"):
        tiny.start(allow_reboot=True)
        before = after = tiny.succeed(boot)
        tiny.execute(command, check_output=False)
        while after == before:
            with contextlib.suppress(ChannelError):  # it reboots at this moment
                after = tiny.succeed(boot)
    tiny.crash()
    for command in ("reboot", "poweroff", "poweroff -f", "kill -PWR 1"):
        tiny.start()
        tiny.execute(command, check_output=False)
        tiny.wait_for_shutdown()
        assert not tiny.booted
    for command in ("halt", "halt -f"):
        tiny.start()
        tiny.execute(command, check_output=False)
        tiny.wait_for_console_text("System halted")
        with pytest.raises(MachineError, match=r"did not power off in 0\.1 s"):
            tiny.wait_for_shutdown(timeout=0.1)
        assert tiny.booted
        tiny.crash()


def test_a_file_system_in_memory_that_is_full_costs_nobody_his_life(tiny: Machine) -> None:
    places = ("", "/tmp", "/run", "/dev/shm", "/dev")
    for place in places:
        told = tiny.fail(f"dd if=/dev/zero of={place}/big bs=64k 2>&1")
        assert "No space left on device" in told, told
        tiny.succeed(f"rm {place}/big")
    for place in places:  # none has what others leave
        tiny.fail(f"dd if=/dev/zero of={place}/big bs=64k 2>/dev/null")
    tiny.succeed("rm -f /big /tmp/big /run/big /dev/shm/big /dev/big")
    told = tiny.fail("i=0; while : > /file$i; do i=$((i + 1)); done 2>&1; false", timeout=300)
    assert "No space left on device" in told, told
    assert "memory" not in tiny.succeed("dmesg | grep -i 'out of memory' || true")


def test_a_kernel_panic_is_reported_as_itself(tiny: Machine) -> None:
    tiny.connect()
    with pytest.raises(MachineError, match="kernel panic") as caught:
        tiny.succeed("echo c > /proc/sysrq-trigger")
    assert "Kernel panic - not syncing" in "\n".join(caught.value.console)


def test_a_vmm_that_dies_is_reported_as_itself(tiny: Machine) -> None:
    tiny.connect()
    process = tiny.spawn("sleep 1000")
    assert tiny.pid is not None
    _kill_vmm(tiny.pid)
    with pytest.raises(MachineError, match=r"the VMM ended \(signal 9"):
        tiny.succeed("true")
    with pytest.raises(MachineError):
        process.wait()


def test_a_vmm_that_died_between_calls_is_not_replaced_in_silence(tiny: Machine) -> None:
    for _ in range(2):
        tiny.start()  # whoever says so gets a fresh machine
        tiny.connect()
        assert tiny.pid is not None
        _kill_vmm(tiny.pid)
        while tiny.booted:
            time.sleep(0.001)
        for _ in range(2):
            with pytest.raises(MachineError, match=r"the VMM ended \(signal 9"):
                tiny.succeed("true")
    tiny.crash()  # and so does who ends it
    tiny.succeed("true")


def test_a_machine_that_does_not_come_up_says_at_which_stage_it_stopped() -> None:
    nodes = {"slow": {"image": "debian", "start_timeout": 2.5}}
    with (
        Cluster({"nodes": nodes}, accelerator="tcg", cold=True) as cluster,
        pytest.raises(MachineError) as caught,
    ):
        cluster["slow"].succeed("true")
    message = str(caught.value)
    assert "did not come up in 2.5 s" in message
    assert "last stage that it reached is: " in message
    assert "last console lines" in message


def test_machines_start_together(debian: Cluster) -> None:
    assert wait_all(["a", "b"], lambda name: debian[name].succeed("hostname")) == ["a\n", "b\n"]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _kill_vmm(pid: int) -> None:
    (vmm,) = children(pid)
    os.kill(vmm, 9)


def test_an_image_that_is_none_is_named_with_its_node() -> None:
    nodes = {"db": {"image": "tiny"}, "web": {"image": "tinny"}}
    with pytest.raises(ManifestError, match=r"test: nodes\.web\.image: no image recipe `tinny`"):
        Cluster({"name": "test", "nodes": nodes}, accelerator="tcg").open()

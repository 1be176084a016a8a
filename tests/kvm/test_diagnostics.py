"""What is said of machines that do not answer: each cause is brought about in a real one."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from attest.cluster.cluster import Cluster
from attest.errors import ChannelError, MachineError
from attest.guest.agent.channel import AgentChannel
from attest.guest.agent.protocol import VERSION
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.machine.instance_states import DEFAULT_LIMITS, Limits
from attest.machine.machine import Machine
from attest.support.concurrency import call_in_thread
from attest.support.procfs import children
from attest.vmm.base import DialError
from tests.kvm.conftest import THERE, Vmm

FOREVER = 100_000
"""Seconds; a test that really waited for so long would run into its own limit."""

HYBRID = [name for name in THERE if name != "qemu"]
"""The VMMs whose vsock is a Unix socket."""

VSOCK = [*HYBRID, *(["qemu"] if Path("/dev/vhost-vsock").exists() else [])]
"""Those with vsock."""

UNREACHED = "cannot reach the agent in the guest"
HELD = r"its processors have not run for \d+\.\d s: the guest has halted, or the VMM holds it"
SILENT = "accepted, and no answer"

LAST_WORDS = {
    "qemu": (signal.SIGTERM, "exit code 0: .*terminating on signal 15"),
    "firecracker": (signal.SIGBUS, "exit code 149: .*after intercepting signal 7"),
    "cloud-hypervisor": (signal.SIGTERM, "exit code 0"),
}
"""A signal that each VMM takes, and how it ends then."""


def vsock(vmm: str) -> dict[str, str]:
    """What a node asks for to have vsock."""
    return {"channel": "vsock"} if vmm == "qemu" else {}


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """The recipe of the image that `booting` boots."""
    return tmp_path / "odd.toml"


@contextmanager
def booting(
    vmm: str, recipe: Path, *cmdline: str, limits: Limits = DEFAULT_LIMITS, **node: Any
) -> Iterator[Machine]:
    """A tiny machine, `odd`, with more kernel parameters; it boots when it is needed."""
    recipe.write_text(f'base = "tiny"\ncmdline = {json.dumps(cmdline)}\n')
    # The image of the first machine is the one with which KVM is tried.
    nodes = {
        **Vmm(vmm).nodes("even"),
        **Vmm(vmm).nodes("odd", image=str(recipe), **{"start_timeout": FOREVER, **node}),
    }
    with Cluster(
        {"nodes": nodes}, accelerator="kvm", cold=True, on_fatal=print, limits=limits
    ) as cluster:
        yield cluster["odd"]


@contextmanager
def shell(
    vmm: str, recipe: Path, *, limits: Limits = DEFAULT_LIMITS, **node: Any
) -> Iterator[Machine]:
    """A machine with nothing but a shell on its console."""
    with booting(vmm, recipe, "rdinit=/bin/sh", limits=limits, **node) as machine:
        machine.start()
        machine.wait_for_console_text("job control turned off", timeout=60)
        yield machine


def type_in(machine: Machine, command: str) -> None:
    """Let that shell run a command."""
    machine.send_console(f"{command}\necho did-$((6*7))\n")
    machine.wait_for_console_text("did-42", timeout=60)


def failure(machine: Machine) -> MachineError:
    """Why it does not come up."""
    with pytest.raises(MachineError) as caught:
        machine.connect()
    return caught.value


def attempt(machine: Machine, limit: float = 3) -> tuple[str, str]:
    """Why its agent is not reached in some seconds, and the last kind of attempt."""

    def greet(sock: socket.socket, limit: float) -> None:
        channel = AgentChannel(machine.name, sock)
        try:
            channel.connect(limit)
        finally:
            channel.close()

    with pytest.raises(DialError) as caught:
        machine._lifecycle.vmm.dial(greet, limit, str)
    return str(caught.value), caught.value.attempts[-1]


def kill(machine: Machine, number: int) -> None:
    """Send a signal to its VMM."""
    assert machine.pid is not None
    (vmm,) = children(machine.pid)
    os.kill(vmm, number)


# Guests that die


@pytest.mark.parametrize("vmm", THERE)
def test_a_kernel_panic_at_boot(vmm: str, odd: Path) -> None:
    with booting(vmm, odd, "attest.root=/dev/null") as machine:
        error = failure(machine)
    assert re.match(r"odd: kernel panic: \[.+\] Kernel panic - not syncing: Atte", error.message)
    assert "attest-agent: boot failed: mount /dev/null: as erofs: " in "\n".join(error.console)


@pytest.mark.parametrize("vmm", HYBRID)
def test_a_triple_fault_at_boot(vmm: str, odd: Path) -> None:
    said = {
        "firecracker": "exit code 1: .* Unexpected exit reason on vcpu run: Shutdown",
        "cloud-hypervisor": "exit code 0: .* Guest likely triple-faulted",
    }
    with booting(vmm, odd) as machine, broken_kernel(odd):
        error = failure(machine)
    assert re.match(rf"odd: the VMM ended \({said[vmm]}", error.message)
    assert error.hint == ""


@contextmanager
def broken_kernel(recipe: Path) -> Iterator[None]:
    """The image's kernel is illegal instructions, which it cannot handle so early."""
    image = ImageStore().build(load_recipe(str(recipe)))
    kernel = bytearray(image.vmlinux.read_bytes())
    (headers,) = struct.unpack_from("<Q", kernel, 0x20)  # e_phoff, see elf(5)
    (code,) = struct.unpack_from("<Q", kernel, headers + 8)  # p_offset of the first segment
    kernel[code : code + (2 << 20)] = b"\x0f\x0b" * (1 << 20)
    image.vmlinux.unlink()  # other images share it
    image.vmlinux.write_bytes(kernel)
    try:
        yield
    finally:
        ImageStore().remove(image)


@pytest.mark.parametrize("vmm", VSOCK)
def test_a_guest_that_halts(vmm: str, odd: Path) -> None:
    with booting(vmm, odd, "rdinit=/bin/busybox", "halt", "-f", **vsock(vmm)) as machine:
        error = failure(machine)
    assert re.match(rf"odd: did not come up: {UNREACHED}: {HELD} \[stage: kernel\]$", error.message)
    assert error.attempts[-1].startswith(f"{SILENT}: ")


# VMMs that end


@pytest.fixture(params=["killed", "by itself"])
def end(request: pytest.FixtureRequest, vmm: Vmm) -> tuple[int, str]:
    """A signal that ends the VMM, and what is said of its end."""
    return (signal.SIGKILL, "signal 9") if request.param == "killed" else LAST_WORDS[vmm.name]


def test_a_vmm_that_ends_under_a_command(vmm: Vmm, end: tuple[int, str]) -> None:
    number, said = end
    with vmm.cluster("one") as cluster:
        one = cluster["one"]
        command = call_in_thread(
            lambda: one.succeed("echo begun > /dev/console; sleep 1000"), "command"
        )
        one.wait_for_console_text("begun", timeout=60)
        kill(one, number)
        with pytest.raises(MachineError, match=rf"^one: the VMM ended \({said}"):
            command.result()


def test_a_vmm_that_ends_while_the_agent_is_awaited(
    vmm: Vmm, end: tuple[int, str], odd: Path
) -> None:
    number, said = end
    with shell(vmm.name, odd) as machine:
        kill(machine, number)
        error = failure(machine)
    assert re.match(rf"odd: the VMM ended \({said}", error.message)


# Guests and VMMs that live, and no agent that answers


@pytest.mark.parametrize("vmm", VSOCK)
def test_a_guest_without_an_agent(vmm: str, odd: Path) -> None:
    with booting(vmm, odd, "rdinit=/bin/sh", start_timeout=6, **vsock(vmm)) as machine:
        error = failure(machine)
    assert error.message.startswith(
        "odd: did not come up in 6 s; the last stage that it reached is: "
    )
    silent, last = error.attempts[-2:]
    assert re.fullmatch(
        rf"{SILENT}: (once, at [\d.]+ s|\d+ times, from [\d.]+ s to [\d.]+ s) "
        r"\(the guest's vsock driver .+\)",
        silent,
    )
    assert re.fullmatch(rf"{UNREACHED}: not reached in [\d.]+ s: {SILENT}", last)


@pytest.mark.parametrize("vmm", VSOCK)
def test_what_a_guest_answers_on_its_way_to_an_agent(vmm: str, odd: Path) -> None:
    closed = "reset by the guest" if vmm == "qemu" else "accepted, and closed before OK"
    with shell(vmm, odd, limits=Limits(trial=3), **vsock(vmm)) as machine:
        assert attempt(machine)[0] == f"{UNREACHED}: not reached in 3 s: {SILENT}"

        type_in(machine, "for each in $(cat /modules/order); do insmod $each; done")
        why, seen = attempt(machine)
        assert why == f"{UNREACHED}: not reached in 3 s: {closed}"
        assert "else nobody listens on that port in the guest" in seen

        type_in(machine, "mount -t devtmpfs dev /dev; mount -t proc proc /proc; /init &")
        assert machine.succeed("cat /proc/1/comm") == "sh\n"

        type_in(machine, "kill -STOP $!")
        with pytest.raises(MachineError) as caught:
            machine.snapshot("stuck")
        assert caught.value.message == (
            f"odd: the machine was saved, and does not answer since: {UNREACHED}: "
            "not reached in 3 s: OK, but no greeting [stage: ready]"
        )
        assert "one that is stuck" in caught.value.attempts[-1]


def test_an_agent_with_another_protocol(vmm: Vmm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attest.guest.agent.session.VERSION", VERSION + 1)
    with vmm.cluster("one", cold=True) as cluster:
        error = failure(cluster["one"])
    assert error.message.startswith(
        f"one: did not come up: the agent broke the protocol: it speaks version {VERSION}, this "
        f"attest version {VERSION + 1}; the agent is older: build the machine's image again"
    )


@pytest.mark.parametrize("vmm", VSOCK)
def test_a_machine_that_its_vmm_holds(vmm: str) -> None:
    with Vmm(vmm).cluster("one", **vsock(vmm)) as cluster:
        one = cluster["one"]
        one.connect()
        one._lifecycle.vmm.pause()
        why, _ = attempt(one)
        assert re.fullmatch(rf"{UNREACHED}: not reached in 3 s: {HELD}; {SILENT}", why)


@pytest.mark.parametrize("vmm", HYBRID)
def test_a_socket_that_is_gone(vmm: str) -> None:
    with Vmm(vmm).cluster("one", limits=Limits(trial=1)) as cluster:
        one = cluster["one"]
        one.connect()
        (path,) = one.out_dir.parent.glob("one/*/*vsock*")
        path.unlink()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))  # and nobody listens
        why, seen = attempt(one, 1)
        assert why == f"{UNREACHED}: not reached in 1 s: refused, as nobody listens on the socket"
        assert "left over from a VMM that has gone" in seen
        path.unlink()
        with pytest.raises(MachineError) as caught:
            one.snapshot("unreached")
        assert caught.value.message == (
            f"one: the machine was saved, and does not answer since: {UNREACHED}: "
            "not reached in 1 s: the socket's file is missing [stage: ready]"
        )


# Connections that end with a snapshot


@pytest.mark.parametrize("vmm", VSOCK)
def test_a_script_does_not_see_that_a_snapshot_ends_connections(vmm: str) -> None:
    with Vmm(vmm).cluster("one", **vsock(vmm)) as cluster:
        one = cluster["one"]
        one.succeed("sleep 1000 > /dev/null 2>&1 & echo $! > /pid")
        command = one.spawn("sleep 1000")
        snapshot = one.snapshot("then")
        with pytest.raises(ChannelError, match=r"^one: the machine was saved$"):
            command.wait()
        (clone,) = snapshot.clone()
        for machine in (one, clone):
            machine.succeed("kill -0 $(cat /pid)")
        one.restore(snapshot)
        one.succeed("kill -0 $(cat /pid)")

"""The kernel parameter that makes a power-off a reboot, for VMMs that end with nothing else."""

import socket
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from attest.guest.agent.channel import AgentChannel
from attest.guest.channel import Command, PowerAction
from attest.guest.console import Console
from attest.image.described import load_described
from attest.vmm.base import MachineSpec
from attest.vmm.qemu.binary import find_qemu
from attest.vmm.qemu.vmm import Qemu
from tests.guest.elsewhere import built, describe_debian


def leave(channel: AgentChannel) -> None:
    channel.power(PowerAction.POWER_OFF)


def command(channel: AgentChannel) -> None:
    channel.start(Command("poweroff"))


@pytest.mark.parametrize("image", ["tiny", "debian", "elsewhere"])
@pytest.mark.parametrize("end", [leave, command])
def test_the_guest_reboots_instead(tmp_path: Path, image: str, end: Any) -> None:
    own = image == "elsewhere"
    guest = load_described(str(describe_debian(tmp_path))) if own else built(image)
    guest = replace(guest, cmdline=(*guest.cmdline, "attest.poweroff=reboot"))
    spec = MachineSpec(
        name="machine", image=guest, memory=256, vcpus=1, machine="microvm", accelerator="tcg",
        directory=tmp_path, allow_reboot=True,  # its end would take the last events with it
    )  # fmt: skip
    vmm = Qemu(spec, find_qemu(), enter=list, on_exit=lambda _: None, on_event=lambda *_: None)
    console = Console(
        "machine", vmm.console, tmp_path / "console", on_line=lambda _: None,
        on_alarm=lambda *_: None,
    )  # fmt: skip
    channels = []

    def greet(sock: socket.socket, limit: float) -> None:
        channels.append(AgentChannel("machine", sock))
        channels[0].connect(limit)

    try:
        vmm.execute("query-status")  # from now on it tells of events
        vmm.dial(greet, 100, dead=str)
        end(channels[0])
        event = vmm.wait_for_event(lambda each: each["event"] in ("RESET", "SHUTDOWN"), 100)
    finally:
        vmm.kill()
        console.join()
        for channel in channels:
            channel.close()
    assert (event["event"], event["data"]["reason"]) == ("RESET", "guest-reset")

"""What the built images are like from inside."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from attest.cluster.cluster import Cluster
from attest.cluster.images import images_of
from attest.errors import ImageBuildError
from attest.events import EventLog
from attest.image.model import Image
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.machine.machine import Machine
from attest.manifest import parse_manifest

LAYERED = """
base = "debian"
packages = ["tree"]
mask = ["reports.service"]
run = [
  "tree --version",
  "cp /etc/early /etc/copied; [ ! -e /etc/late ]",
  "rm /usr/bin/tree; rm -r /usr/share/doc/tree; mkdir /usr/share/doc/tree",
  "useradd --create-home alice",
]
files."/etc/early" = { text = "EARLY" }
files."/etc/late" = { text = "late", after_run = true }
"""
ABOVE = """
base = "below.toml"
run = ["cp /etc/late /etc/copied-late"]
files."/etc/early" = { text = "other" }
"""
RECIPE = """
base = "tiny"
modules = ["dm-mod"]
cmdline = ["attest.test=yes"]
[files]
"/etc/motd" = { text = "hello", mode = "0600" }
"/bin/greet" = "greet"
"""


def test_debian_boots_without_a_failed_unit(machine: Machine) -> None:
    machine.wait_for_unit("multi-user.target")
    assert machine.succeed("systemctl --failed --no-legend --plain") == ""


def test_debian_runs_and_has_its_devices(machine: Machine) -> None:
    machine.succeed("udevadm settle && systemctl is-system-running --wait")
    by_id = machine.succeed("readlink --canonicalize /dev/disk/by-id/virtio-root").strip()
    serial = machine.succeed(f"cat /sys/block/{Path(by_id).name}/serial")
    assert serial.strip() == "root"
    assert (
        machine.succeed("stat -c '%a %G' /dev/net/tun /dev/loop-control") == "666 root\n660 disk\n"
    )
    for unit in ("dev-vda.device", "dev-ttyS0.device", "sys-subsystem-net-devices-eth0.device"):
        assert machine.succeed(f"systemctl is-active {unit}") == "active\n"


def test_debian_without_a_vsock_device_has_no_modules_for_it(machine: Machine) -> None:
    assert "vsock" not in machine.succeed("cut -d' ' -f1 /proc/modules").split()


def test_what_a_boot_leaves_out_comes_back(tmp_path: Path) -> None:
    """By the lines that docs/images.md has for each."""
    page = (Path(__file__).parents[2] / "docs/images.md").read_text()
    table = page[page.index("What else a boot does") : page.index("The cloud kernel lacks")]
    run = [line for each in re.findall(r"`run = (\[.*?\])`", table) for line in json.loads(each)]
    (modules,) = re.findall(r"`modules = (\[.*?\])`", table)
    assert len(run) == 3
    (tmp_path / "whole.toml").write_text(
        f'base = "debian"\nrun = {json.dumps(run)}\nmodules = {modules}\n'
    )
    nodes = {"machine": {"image": str(tmp_path / "whole.toml")}}
    with Cluster({"nodes": nodes}, accelerator="tcg") as cluster:
        machine = cluster["machine"]
        assert machine.succeed("systemctl is-system-running --wait") == "running\n"
        for unit in ("kmod-static-nodes", "systemd-tmpfiles-setup-dev"):
            assert machine.succeed(f"systemctl is-active {unit}") == "active\n"
        (module,) = json.loads(modules)
        machine.succeed(f"grep -q ^{module} /proc/modules")
        shown = machine.succeed("systemctl show --property=LockPersonality systemd-journald")
        assert shown == "LockPersonality=yes\n"
        machine.succeed("udevadm trigger && udevadm settle")


def test_generators_run_where_there_is_something_for_them(tmp_path: Path) -> None:
    about = "# Provides: old\n# Default-Start: 2 3 4 5\n# Default-Stop:\n"
    script = f"#!/bin/sh\n### BEGIN INIT INFO\n{about}### END INIT INFO\n"
    (tmp_path / "old.toml").write_text(
        'base = "debian"\nrun = ["update-rc.d old defaults", "mkdir /scratch"]\n[files]\n'
        '"/etc/fstab" = { text = "none /scratch tmpfs size=1M 0 0\\n" }\n'
        f'"/etc/init.d/old" = {{ text = {json.dumps(script)}, mode = "0755" }}\n'
        '"/etc/tmpfiles.d/own.conf" = { text = "c /dev/own 0604 - - - 1:3\\n" }\n'
    )
    nodes = {"machine": {"image": str(tmp_path / "old.toml")}}
    with Cluster({"nodes": nodes}, accelerator="tcg") as cluster:
        machine = cluster["machine"]
        machine.succeed("mountpoint /scratch && systemctl is-active old.service")
        assert machine.succeed("stat -c %a /dev/own") == "604\n"


def test_generators_run_for_what_is_written_after_the_boot(machine: Machine) -> None:
    machine.succeed("systemctl daemon-reload")  # also after one that had nothing for them
    machine.succeed("mkdir /scratch; echo 'none /scratch tmpfs size=1M 0 0' >> /etc/fstab")
    machine.succeed("printf '#!/bin/sh\\n' > /etc/init.d/old; chmod +x /etc/init.d/old")
    machine.succeed("systemctl daemon-reload && systemctl start scratch.mount old.service")
    machine.succeed("mountpoint /scratch && umount /scratch && rmdir /scratch")
    machine.succeed("rm /etc/init.d/old; sed -i /scratch/d /etc/fstab; systemctl daemon-reload")


@pytest.mark.parametrize(
    "tool", ["bash", "curl", "ip", "journalctl", "nc", "ping", "ps", "udevadm"]
)
def test_debian_has_the_usual_tools(machine: Machine, tool: str) -> None:
    machine.succeed(f"command -v {tool}")


def test_debian_can_load_more_modules(machine: Machine) -> None:
    machine.succeed("modprobe dummy && lsmod | grep -q ^dummy")


def test_debian_belongs_to_root_and_other_users(machine: Machine) -> None:
    assert machine.succeed("stat -c %U / /etc /usr/bin/env").split() == ["root"] * 3
    assert machine.succeed("stat -c %G /etc/shadow").strip() == "shadow"
    assert "nobody" in machine.succeed("setpriv --reuid nobody --clear-groups id -un")


def test_debian_logs_nobody_in_by_password(machine: Machine) -> None:
    assert machine.succeed("passwd --status root").split()[1] == "L"


def test_a_recipes_files_modules_and_parameters_are_in_the_guest(tmp_path: Path) -> None:
    (tmp_path / "greet").write_text("#!/bin/sh\necho good day\n")
    (tmp_path / "greet").chmod(0o755)
    (tmp_path / "own.toml").write_text(RECIPE)
    nodes = {"machine": {"image": str(tmp_path / "own.toml"), "memory": 96}}
    with Cluster({"nodes": nodes}, accelerator="tcg") as cluster:
        machine = cluster["machine"]
        assert machine.succeed("cat /etc/motd; stat -c ' %a' /etc/motd") == "hello 600\n"
        assert machine.succeed("greet") == "good day\n"
        assert "dm_mod" in machine.succeed("lsmod")
        assert "attest.test=yes" in machine.succeed("cat /proc/cmdline").split()


def built(recipe: Path) -> list[str]:
    """Build a recipe's image; the steps whose layers were not there."""
    lines: list[str] = []
    ImageStore().build(load_recipe(str(recipe)), progress=lines.append)
    return [line.partition(" ")[2] for line in lines if line[0].isdigit()]


def test_what_the_steps_have_made_is_in_the_guest(tmp_path: Path) -> None:
    early = os.urandom(8).hex()  # so that its layer is not there, nor any above it
    below, above = tmp_path / "below.toml", tmp_path / "above.toml"
    below.write_text(LAYERED.replace("EARLY", early))
    above.write_text(ABOVE)
    built(below)
    assert built(above) == ["files /etc/early", "run cp /etc/late /etc/copied-late"]
    below.write_text(below.read_text().replace('"late"', '"later"'))
    assert built(below) == ["files /etc/late"]
    image = ImageStore().build(load_recipe(str(above)))
    layers = ImageStore().history(image)
    nodes = {"machine": {"image": str(above)}}
    with Cluster({"nodes": nodes}, accelerator="tcg") as cluster:
        machine = cluster["machine"]
        assert machine.succeed("cat /etc/copied; cat /etc/early") == f"{early}other"
        assert machine.succeed("cat /etc/late; cat /etc/copied-late") == "laterlater"
        machine.succeed("[ ! -e /usr/bin/tree ]; dpkg --status tree")
        assert machine.succeed("ls -A /usr/share/doc/tree") == ""
        assert machine.succeed("stat -c %U /home/alice").strip() == "alice"
        assert machine.succeed("systemctl is-enabled reports.service || true") == "masked\n"
        assert machine.succeed("stat -c %Y /etc/copied") == f"{layers[-1].layer.epoch}\n"


MEETING = """
timeout 60 sh -c 'touch /dev/shm/OWN; until [ -e /dev/shm/OTHER ]; do sleep 0.1; done'
"""


def test_images_of_one_manifest_are_built_at_once(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one processor")
    names = [os.urandom(8).hex() for _ in range(2)]
    nodes, said = {}, []
    for name, other in zip(names, reversed(names), strict=True):
        line = MEETING.replace("OWN", name).replace("OTHER", other).strip()
        path = tmp_path / f"{name}.toml"
        path.write_text(f'base = "debian"\nrun = ["""{line}"""]')
        nodes[f"m{name}"] = {"image": str(path)}
    events = EventLog()
    events.subscribe(lambda event: said.append(event.text))
    try:
        first: list[Image] = []
        images = images_of(parse_manifest({"nodes": nodes}), events, first.append)
        assert len(first) == 1
        assert first[0] in images.values()
    finally:
        for name in names:
            Path("/dev/shm", name).unlink(missing_ok=True)
    assert {image.name for image in images.values()} == set(names)
    for name in names:
        assert any(line.startswith(f"{name}: built {name}") for line in said)


def test_a_run_line_that_fails_is_named_and_leaves_the_layers_below(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    first = f"echo {os.urandom(8).hex()} > /etc/first"
    path.write_text(f'base = "debian"\nrun = ["{first}", "echo no luck; exit 3"]')
    with pytest.raises(ImageBuildError) as raised:
        built(path)
    message = f"{path}: run.1: `echo no luck; exit 3` failed with exit code 3"
    assert (raised.value.message, raised.value.output) == (message, "no luck")
    path.write_text(path.read_text().replace("exit 3", "exit 0"))
    assert built(path) == ["run echo no luck; exit 0"]

"""`attest shell`."""

from __future__ import annotations

import sys

import click

from attest.cli.options import accel_option, programs, vmm_options
from attest.cluster.cluster import Cluster
from attest.errors import UsageError
from attest.events import EventLog
from attest.guest.terminal import interact
from attest.manifest import Accelerator, VmmName, parse_manifest
from attest.report.activity import Activities
from attest.report.live import view


@click.command()
@click.argument("image")
@click.option("--memory", default=512, show_default=True, help="MiB.")
@click.option("--vcpus", default=1, show_default=True, help="Virtual CPUs.")
@accel_option
@vmm_options
def shell(
    image: str,
    memory: int,
    vcpus: int,
    accel: Accelerator,
    vmm: VmmName,
    firecracker: str | None,
    cloud_hypervisor: str | None,
) -> None:
    """Open an interactive shell in a fresh machine of IMAGE.

    That is what a node's image is: a built-in one, or the path of a recipe or a description.

    Ctrl-C goes to the guest; leave with Ctrl-D or `exit`. The machine goes with the shell.

    \b
    Example: attest shell debian
    """
    if not sys.stdin.isatty():
        raise UsageError("attest shell needs a terminal", hint="use `attest run` in scripts")
    manifest = parse_manifest(
        {"nodes": {"machine": {"image": image, "memory": memory, "vcpus": vcpus}}, "name": "shell"}
    )
    events = EventLog()
    paths = programs(firecracker=firecracker, cloud_hypervisor=cloud_hypervisor)
    with Cluster(manifest, accelerator=accel, vmm=vmm, programs=paths, events=events) as cluster:
        machine = cluster["machine"]
        with view(events, Activities(events, ["machine"]), verbose=False):
            machine.connect()
        sys.exit(interact(machine))

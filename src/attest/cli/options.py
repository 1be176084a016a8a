"""Options that several subcommands take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from attest.manifest import Accelerator, VmmName

__all__ = ["accel_option", "programs", "vmm_options"]

Callback = TypeVar("Callback", bound=Callable[..., Any])

accel_option = click.option(
    "--accel",
    type=click.Choice(get_args(Accelerator)),
    default="auto",
    show_default=True,
    help="KVM, software emulation, or KVM where it has been seen to work.",
)

_VMM_OPTIONS = (
    click.option(
        "--vmm",
        type=click.Choice(get_args(VmmName)),
        default="qemu",
        show_default=True,
        help="What runs the nodes that name no VMM; auto: the fastest that is here and can.",
    ),
    click.option(
        "--firecracker",
        metavar="PATH",
        help="The Firecracker to use [default: the manifest's, $ATTEST_FIRECRACKER, or on PATH].",
    ),
    click.option(
        "--cloud-hypervisor",
        metavar="PATH",
        help="The Cloud Hypervisor to use; the default is found likewise.",
    ),
)


def vmm_options(command: Callback) -> Callback:
    """Adds ``--vmm`` and the paths of VMMs' programs, see `programs`, to a command."""
    for option in reversed(_VMM_OPTIONS):
        command = option(command)
    return command


def programs(**options: str | None) -> dict[str, str]:
    """The paths of VMMs' programs that the options give, by the VMM's name."""
    return {name.replace("_", "-"): path for name, path in options.items() if path}

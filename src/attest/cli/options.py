"""Options that several subcommands take."""

from __future__ import annotations

import click

__all__ = ["accel_option"]

accel_option = click.option(
    "--accel",
    type=click.Choice(["auto", "kvm", "tcg"]),
    default="auto",
    show_default=True,
    help="KVM, software emulation, or KVM where it has been seen to work.",
)

"""`attest run`."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attest.cli import importing
from attest.cli.options import accel_option, programs, vmm_options
from attest.cluster.ground import Ground
from attest.errors import UsageError
from attest.manifest import Accelerator, VmmName, load_manifest

if TYPE_CHECKING:
    from attest.cli.orders import Orders


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@accel_option
@vmm_options
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, file_okay=False),
    help="Directory for logs and artefacts [default: a new one in the cache].",
)  # fmt: skip
@click.option("--cold", is_flag=True, help="Boot each machine, instead of starting from snapshots.")
@click.option(
    "--no-save", is_flag=True,
    help="Save no snapshots of machines that boot, as where the cache does not last.",
)  # fmt: skip
@click.option(
    "--snapshots", metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Start from the snapshots that `attest cache make` has made in DIR, which is only read; "
    "machines that it has none for boot.",
)  # fmt: skip
@click.option("--hugepages", is_flag=True, help="Take the machines' memory from huge pages.")
@click.option(
    "--snapshot-on-failure/--no-snapshot-on-failure", "keep", default=None,
    help="Keep the machines of a test that fails, for `attest resume` [default: ask, where there "
    "is a terminal].",
)  # fmt: skip
@click.option(
    "--junit", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Write a report for a CI, as JUnit XML.",
)  # fmt: skip
@click.option(
    "-I", "--interactive", is_flag=True,
    help="Open a Python console with the script's names instead of running the script.",
)  # fmt: skip
@click.option(
    "--pause-on-failure", is_flag=True,
    help="Open that console when the script has failed, with the machines as they are.",
)  # fmt: skip
@click.option(
    "--watch", is_flag=True,
    help="Run the test again whenever a file is saved that it is made of, on machines that stand "
    "ready, until Ctrl-C.",
)  # fmt: skip
@click.option("--check", is_flag=True, help="Check the script first; see `attest check`.")
@click.option("-v", "--verbose", is_flag=True, help="Show consoles and the output of commands.")
def run(
    manifest: Path,
    accel: Accelerator,
    vmm: VmmName,
    firecracker: str | None,
    cloud_hypervisor: str | None,
    out: Path | None,
    cold: bool,
    no_save: bool,
    snapshots: Path | None,
    hugepages: bool,
    keep: bool | None,
    junit: Path | None,
    interactive: bool,
    pause_on_failure: bool,
    watch: bool,
    check: bool,
    verbose: bool,
) -> None:
    """Run the test that MANIFEST (TOML or JSON) declares.

    \b
    Example: attest run examples/web/test.toml

    Exit code: 0 passed, 1 the test failed, 2 bad input, 3 this host cannot run it.
    """
    if keep and pause_on_failure:
        raise UsageError(
            "--snapshot-on-failure and --pause-on-failure: one of them; what is kept has ended"
        )
    if cold and snapshots:
        raise UsageError("--cold and --snapshots: one of them")
    if watch and (interactive or pause_on_failure):
        other = "--interactive" if interactive else "--pause-on-failure"
        raise UsageError(
            f"--watch and {other}: one of them; --watch has its machines ended after each run",
            hint="again() in the console of --interactive runs the script anew",
        )

    def run_once(orders: Orders | None = None) -> int:
        test = load_manifest(manifest)
        with closing(Ground(test, test.numbers())) as ground:
            with importing():  # while the ground is made
                from attest.cli.testing import Options, run_test
                from attest.cluster.options import ClusterOptions
            options = Options(
                cluster=ClusterOptions(
                    accelerator=accel,
                    vmm=vmm,
                    programs=programs(firecracker=firecracker, cloud_hypervisor=cloud_hypervisor),
                    cold=cold,
                    save=not no_save,
                    snapshots=snapshots,
                    hugepages=hugepages,
                ),
                out=out,
                keep=keep,
                verbose=verbose,
                junit=junit,
                interactive=interactive,
                pause_on_failure=pause_on_failure,
                check=check,
            )
            return run_test(test, options, ground, orders)

    if watch:
        from attest.cli.watch import watch as watch_test

        sys.exit(watch_test(manifest, run_once))
    sys.exit(run_once())

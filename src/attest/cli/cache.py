"""`attest cache`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attest.cli.group import Group
from attest.cli.options import accel_option, programs, vmm_options
from attest.errors import UsageError
from attest.support.text import local_time

if TYPE_CHECKING:
    from attest.image.recipe import Recipe
    from attest.manifest import Accelerator, VmmName
    from attest.snapshot.cache import Entry, Removed

_DAY = 24 * 3600.0


@click.group(cls=Group)
def cache() -> None:
    """Manage the snapshots that machines start from, and carry images to other hosts.

    \b
    Example: attest cache ls
    """


@cache.command("ls")
def list_() -> None:
    """List the snapshots, the one used last first.

    \b
    Example: attest cache ls
    """
    from attest.snapshot.cache import SnapshotCache

    row = "{:<12}  {:<16}  {:>8}  {:>5}  {:<5}  {:<6}  {:>9}  {:<16}  {}"
    titles = ("KEY", "IMAGE", "MEMORY", "VCPUS", "ACCEL", "STATE", "ON DISK", "LAST USED", "MADE")
    click.echo(row.format(*titles))
    for each in SnapshotCache().entries():
        shape = each.shape
        cells = (
            each.path.name[:12], shape.image_name, f"{shape.memory} MiB", shape.vcpus,
            shape.accelerator, shape.state, _mib(each.size),
            local_time(each.last_used), local_time(each.made),
        )  # fmt: skip
        click.echo(row.format(*cells))


@cache.command()
@click.option(
    "--days", type=click.FloatRange(min=0), default=30.0, show_default=True,
    help="Keep what was used within so many days.",
)  # fmt: skip
def gc(days: float) -> None:
    """Remove snapshots not used for long, those beyond the limit, and what killed runs have left.

    The limit is 20 GiB, or a fifth of the disk's free space where that is less. What a run uses
    stays.

    \b
    Example: attest cache gc --days 7
    """
    from attest.snapshot.cache import SnapshotCache

    removed = SnapshotCache().gc(max_age=days * _DAY)
    _tell(removed)
    print(f"{len(removed)} removed", file=sys.stderr)


@cache.command()
def clear() -> None:
    """Remove all snapshots that no run uses.

    \b
    Example: attest cache clear
    """
    from attest.snapshot.cache import SnapshotCache

    store = SnapshotCache()
    removed = store.sweep()
    _tell(removed)
    count = len(removed)
    for entry in store.entries():
        if store.remove(entry):
            click.echo(f"removed {_name(entry)}")
            count += 1
        else:
            click.echo(f"kept    {_name(entry)}: a run uses it")
    print(f"{count} removed", file=sys.stderr)


@cache.command()
def verify() -> None:
    """Read every byte of all snapshots, and remove those that are damaged.

    \b
    Example: attest cache verify

    Exit code: 0 all are as they were written, 1 some were damaged.
    """
    from attest.snapshot.cache import SnapshotCache

    damaged = False
    for path, wrong in SnapshotCache().verify():
        click.echo(f"{path.name[:12]}  " + (f"damaged, removed: {wrong}" if wrong else "ok"))
        damaged = damaged or bool(wrong)
    sys.exit(1 if damaged else 0)


@cache.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "--into", metavar="DIR", required=True, type=click.Path(path_type=Path, file_okay=False),
    help="A new directory, or an empty one.",
)  # fmt: skip
@accel_option
@vmm_options
def make(
    manifest: Path,
    into: Path,
    accel: Accelerator,
    vmm: VmmName,
    firecracker: str | None,
    cloud_hypervisor: str | None,
) -> None:
    """Make the snapshots that the test of MANIFEST starts from.

    They are made in a directory of their own. One machine of each shape boots; the script does not
    run. `attest run --snapshots DIR` starts from them, on this host and with this VMM. DIR may be
    moved, copied and made read-only.

    \b
    Example: attest cache make test.toml --into snapshots
    """
    from attest.cluster.cluster import Cluster
    from attest.events import EventLog
    from attest.manifest import load_manifest
    from attest.report.activity import Activities
    from attest.report.live import view
    from attest.snapshot.cache import read_entry

    test = load_manifest(manifest)
    if not test.image_nodes():
        raise UsageError(f"{test.name}: no node has an image: start scripts are not saved")
    _make_empty(into)
    events = EventLog()
    paths = programs(firecracker=firecracker, cloud_hypervisor=cloud_hypervisor)
    with (
        view(events, Activities(events, test.nodes), verbose=False),
        Cluster(
            test, accelerator=accel, cold=True, vmm=vmm, programs=paths, events=events
        ) as cluster,
    ):
        made = cluster.make_snapshots(into)
    for path in made:
        if entry := read_entry(path):
            click.echo(f"made {_name(entry)}: {_mib(entry.size)}")


_images = click.argument("images", metavar="MANIFEST|IMAGE...", nargs=-1, required=True)


@cache.command()
@_images
def key(images: tuple[str, ...]) -> None:
    """Print the key under which a CI's cache keeps the file of `attest cache export`.

    It is another one when one of the images would have to be built anew: since a recipe has
    changed, or a file that it takes, or attest's builder. Nothing is built.

    \b
    Example: attest cache key test.toml
    """
    from attest.image.bundle import bundle_key

    click.echo(bundle_key(_recipes(images)))


@cache.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_images
def export(file: Path, images: tuple[str, ...]) -> None:
    """Write images into one FILE, for `attest cache import` on another host.

    They are those of a test's MANIFEST, or each an IMAGE: a built-in name, or a recipe's path. What
    is missing is built. Snapshots are not in it, as they belong to a processor, nor what only
    changed recipes need: layers and packages.

    \b
    Example: attest cache export images.zst test.toml
    """
    from attest.cluster.images import build_all
    from attest.image.bundle import write_bundle
    from attest.image.store import ImageStore

    recipes, store = _recipes(images), ImageStore()
    build_all(store, recipes, lambda line: click.echo(line, err=True))
    written = write_bundle(file, recipes, store)
    for each in written:
        click.echo(f"exported {each.name} {each.digest[:12]}: {_mib(each.size)}")
    print(f"{file}: {_mib(file.stat().st_size)}", file=sys.stderr)


@cache.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def import_(file: Path) -> None:
    """Read the images of a FILE that `attest cache export` has written.

    All come in, or none; what is there already stays. FILE is believed: who can write it decides
    what machines boot. It may be damaged.

    \b
    Example: attest cache import images.zst
    """
    from attest.image.bundle import read_bundle
    from attest.image.store import ImageStore

    for each in read_bundle(file, ImageStore()):
        name = f"{each.image.name} {each.image.digest[:12]}"
        click.echo(
            f"imported {name}: {_mib(each.image.size)}"
            if each.new
            else f"kept     {name}: is there"
        )


def _recipes(references: Iterable[str]) -> list[Recipe]:
    """The recipes that are named, and those of the manifests that are."""
    from attest.cluster.images import recipes_of
    from attest.image.recipe import load_recipe
    from attest.manifest import load_manifest

    recipes = []
    for reference in references:
        if _is_manifest(Path(reference)):
            recipes += recipes_of(load_manifest(reference))
        else:
            recipes.append(load_recipe(reference))
    if not recipes:
        raise UsageError(
            f"{', '.join(references)}: no node has an image that attest builds from a recipe"
        )
    return recipes


def _is_manifest(path: Path) -> bool:
    """Whether it has nodes; what cannot be read is for `load_recipe` to refuse."""
    from attest.manifest import decode_document
    from attest.support.validation import read_text

    with suppress(OSError, ValueError):
        document = decode_document(path, read_text(path))
        return isinstance(document, dict) and "nodes" in document
    return False


def _make_empty(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        empty = not any(directory.iterdir())
    except OSError as error:
        raise UsageError(f"--into: cannot make {directory}: {error.strerror}") from None
    if not empty:
        raise UsageError(f"--into: {directory} is not empty", hint="name a new directory")


def _tell(removed: list[Removed]) -> None:
    for each in removed:
        click.echo(f"removed {each.image_name or '?'} {each.key[:12]}: {each.why}")


def _name(entry: Entry) -> str:
    return f"{entry.shape.image_name} {entry.path.name[:12]}"


def _mib(size: int) -> str:
    return f"{size >> 20} MiB"

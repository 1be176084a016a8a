"""`attest image`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from attest.cli.group import Group
from attest.support.text import local_time

if TYPE_CHECKING:
    from attest.image.model import Image


@click.group(cls=Group)
def image() -> None:
    """Build and manage images.

    \b
    Example: attest image build debian
    """


@image.command()
@click.argument("recipe")
@click.option(
    "--no-cache", "--refresh", "refresh", is_flag=True,
    help="Build all layers anew, with the packages of today.",
)  # fmt: skip
def build(recipe: str, refresh: bool) -> None:
    """Build the image of RECIPE.

    RECIPE is a built-in name (tiny, debian) or a recipe's path. Each step of it is a layer, and
    only the layers from the first change on are built; where nothing has changed, it takes no time.

    \b
    Example: attest image build images/web.toml
    """
    from attest.image.recipe import load_recipe
    from attest.image.store import ImageStore

    started = time.monotonic()

    def progress(line: str) -> None:
        click.echo(f"{time.monotonic() - started:7.1f} s  {line}", err=True)

    click.echo(ImageStore().build(load_recipe(recipe), progress=progress, refresh=refresh).digest)


@image.command("ls")
def list_() -> None:
    """List the images, the one used last first.

    \b
    Example: attest image ls
    """
    from attest.image.store import ImageStore

    row = "{:<12}  {:<16}  {:<8}  {:>8}  {:<16}  {}"
    click.echo(row.format("DIGEST", "NAME", "ARCH", "SIZE", "LAST USED", "KERNEL"))
    for each in ImageStore().images():
        used = local_time(each.last_used)
        size = f"{each.size >> 20} MiB"
        click.echo(
            row.format(each.digest[:12], each.name, each.arch, size, used, each.kernel_version)
        )


@image.command()
@click.argument("image_", metavar="IMAGE")
@click.option("--packages", is_flag=True, help="List the installed packages instead.")
def show(image_: str, packages: bool) -> None:
    """Show what is known of an image.

    IMAGE is its name, the beginning of its digest, or its recipe's path. The path of a description
    of an image made elsewhere, ending in .json, will do, too.

    \b
    Example: attest image show debian
    """
    from attest.image.described import is_description, load_described
    from attest.image.store import ImageStore

    if is_description(image_):
        _print_facts(_described_facts(load_described(image_)))
        return
    store = ImageStore()
    found = store.find(image_)
    installed = store.packages(found)
    if packages:
        click.echo("".join(f"{package}\n" for package in installed), nl=False)
        return
    _print_facts(_facts(found, len(installed)))


def _print_facts(facts: list[tuple[str, object]]) -> None:
    for label, value in facts:
        click.echo(f"{label:<11} {value}")


def _described_facts(image: Image) -> list[tuple[str, object]]:
    return [
        ("name", image.name),
        ("digest", image.digest),
        ("description", image.recipe),
        ("init", image.init),
        ("version", f"{image.kernel_version or 'unknown'} ({image.arch})"),
        ("parameters", " ".join(image.cmdline)),
        ("kernel", image.kernel),
        ("vmlinux", image.vmlinux or "none: only QEMU runs it"),
        ("initrd", f"{image.initrd}{' (its own)' if image.own_initrd else ''}"),
        ("root", image.root or "none"),
    ]


def _facts(found: Image, packages: int) -> list[tuple[str, object]]:
    return [
        ("name", found.name),
        ("digest", found.digest),
        ("recipe", found.recipe),
        ("built", local_time(found.built)),
        ("last used", local_time(found.last_used)),
        ("init", found.init),
        ("packages", packages),
        ("kernel", f"{found.kernel_version} ({found.arch})"),
        ("parameters", " ".join(found.cmdline)),
        ("directory", found.path),
        *((file.name, f"{file.stat().st_size:,} bytes") for file in sorted(found.path.iterdir())),
    ]


@image.command()
@click.argument("image_", metavar="IMAGE")
def history(image_: str) -> None:
    """Show an image's layers: what made them, their sizes and times.

    The lowest comes first. IMAGE is its name, the beginning of its digest, or its recipe's path. A
    layer that was there already is shown with the time it took when it was built.

    \b
    Example: attest image history web
    """
    from attest.image.store import ImageStore

    store = ImageStore()
    row = "{:<12}  {:>9}  {:>8}  {:<16}  {}"
    click.echo(row.format("LAYER", "SIZE", "TOOK", "BUILT", "STEP"))
    for entry in store.history(store.find(image_)):
        layer = entry.layer
        size, took = f"{layer.size / 2**20:.1f} MiB", f"{layer.seconds:.1f} s"
        click.echo(row.format(layer.digest[:12], size, took, local_time(layer.built), entry.step))


@image.command()
@click.argument("images", nargs=-1, required=True)
def rm(images: tuple[str, ...]) -> None:
    """Remove images, with the layers that no other image has.

    IMAGES are names, beginnings of digests, or recipes' paths.

    \b
    Example: attest image rm web
    """
    from attest.image.store import ImageStore

    store = ImageStore()
    for found in [store.find(name) for name in images]:
        store.remove(found)
        click.echo(f"removed {found.name} {found.digest[:12]}")


@image.command()
@click.option(
    "--days", type=click.FloatRange(min=0), default=30.0, show_default=True,
    help="Keep what was used within so many days.",
)  # fmt: skip
def gc(days: float) -> None:
    """Remove what was not used for long, and what dead builds left.

    That is images, layers, fetched packages, and the logs of builds that failed.

    \b
    Example: attest image gc --days 7
    """
    from attest.image.store import ImageStore

    removed = ImageStore().gc(max_age=days * 24 * 3600)
    for found in removed:
        click.echo(f"removed {found.name} {found.digest[:12]}")
    print(f"{len(removed)} images removed", file=sys.stderr)

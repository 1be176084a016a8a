"""Descriptions of images made elsewhere: what is read, what a mistake is answered with, digests."""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from attest.cluster.archive import Archive, ArchivedMachine
from attest.errors import RecipeError, UsageError
from attest.image.described import is_description, load_described
from attest.image.model import Image
from attest.image.recipe import load_recipe
from attest.manifest import parse_manifest
from attest.snapshot.shape import Shape
from attest.vmm.base import MachineSpec
from attest.vmm.cloud_hypervisor.config import vm_config
from attest.vmm.firecracker import vmm as firecracker
from attest.vmm.qemu.command_line import kernel_arguments

ARCH = platform.machine()
OTHER = "aarch64" if ARCH == "x86_64" else "x86_64"


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, Any]:
    """A description with every key, whose files are there."""
    (tmp_path / "store").mkdir()
    for name in ("bzImage", "vmlinux", "initrd", "root.erofs"):
        (tmp_path / "store" / name).write_text(name)
    return {
        "name": "shop", "arch": ARCH, "kernel": "store/bzImage", "vmlinux": "store/vmlinux",
        "initrd": str(tmp_path / "store/initrd"), "root": "store/root.erofs",
        "cmdline": ["init=/nix/store/x/init", "quiet"], "init": "systemd",
        "kernel_version": "6.12.1", "own_initrd": True,
    }  # fmt: skip


def load(directory: Path, document: Any) -> Image:
    path = directory / "web.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return load_described("web.json", relative_to=directory)


def test_everything_a_description_may_say(tmp_path: Path, whole: dict[str, Any]) -> None:
    image = load(tmp_path, whole)
    store = tmp_path / "store"
    assert (image.name, image.arch, image.init) == ("shop", ARCH, "systemd")
    assert (image.kernel, image.vmlinux) == (store / "bzImage", store / "vmlinux")
    assert (image.initrd, image.root) == (store / "initrd", store / "root.erofs")
    assert image.cmdline == ("init=/nix/store/x/init", "quiet")
    assert (image.kernel_version, image.own_initrd) == ("6.12.1", True)
    assert image.recipe == str(tmp_path / "web.json")


def test_what_may_be_left_out(tmp_path: Path, whole: dict[str, Any]) -> None:
    keys = ("arch", "kernel", "initrd", "init", "own_initrd")
    image = load(tmp_path, {key: whole[key] for key in keys})
    assert (image.name, image.vmlinux, image.root) == ("web", None, None)
    assert (image.cmdline, image.kernel_version) == ((), "")
    assert load(tmp_path, {**whole, "vmlinux": None, "root": None}).root is None


def test_links_are_followed(tmp_path: Path, whole: dict[str, Any]) -> None:
    (tmp_path / "kernel").symlink_to("store/bzImage")
    assert load(tmp_path, {**whole, "kernel": "kernel"}) == load(tmp_path, whole)


def test_only_attests_initrd_is_told_of_the_root(tmp_path: Path, whole: dict[str, Any]) -> None:
    own = load(tmp_path, whole)
    assert own.parameters(root="/dev/vda") == ["init=/nix/store/x/init", "quiet"]
    attests = replace(own, own_initrd=False)
    assert attests.parameters(root="/dev/vda")[0] == "attest.root=/dev/vda"
    assert replace(attests, root=None).parameters(root="/dev/vda")[0] == "init=/nix/store/x/init"


@pytest.mark.parametrize("own", [True, False])
def test_each_vmm_attaches_the_root_and_tells_only_attests_initrd_of_disks(
    tmp_path: Path, whole: dict[str, Any], own: bool
) -> None:
    spec = MachineSpec(
        name="web", image=load(tmp_path, {**whole, "own_initrd": own}), memory=96, vcpus=1,
        machine="microvm", accelerator="kvm", directory=tmp_path, disks=(tmp_path / "disk",),
    )  # fmt: skip
    config = vm_config(spec, tmp_path)
    assert [disk["id"] for disk in config["disks"]] == ["root", "disk0"]
    told = {
        "qemu": kernel_arguments(spec),
        "firecracker": firecracker._kernel_arguments(spec),
        "cloud-hypervisor": config["payload"]["cmdline"],
    }
    own_words = {
        vmm: [word for word in line.split() if re.match(r"attest\.(root|disks|init)=", word)]
        for vmm, line in told.items()
    }
    assert own_words == {
        "qemu": [] if own else ["attest.root=root"],
        "firecracker": [] if own else ["attest.disks=/dev/vdb", "attest.root=/dev/vda"],
        "cloud-hypervisor": [] if own else ["attest.root=root"],
    }
    assert [vmm for vmm, line in told.items() if "init=/nix/store/x/init" not in line] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernl": "x"}, ["kernl: unknown key", "did you mean `kernel`?"]),
        ({"colour": "red"}, ["colour: unknown key", "known: arch, kernel,"]),
        ({"arch": OTHER}, [f"arch: expected {ARCH}", f"found {OTHER}"]),
        ({"arch": "mips"}, ['arch: expected "x86_64" or "aarch64"', '"mips"']),
        ({"init": "sysv"}, ['init: expected "systemd" or "agent"', '"sysv"']),
        ({"cmdline": "quiet"}, ["cmdline: expected a list", 'found "quiet"']),
        ({"cmdline": ["quiet", 3]}, ["cmdline.1: expected text", "found 3"]),
        ({"own_initrd": "yes"}, ["own_initrd: expected true or false", 'found "yes"']),
        ({"kernel": None}, ["kernel: expected text", "found null"]),
        ({"root": 1}, ["root: expected text", "found 1"]),
        ({"initrd": "gone"}, ["initrd: there is no file", "/gone"]),
        ({"vmlinux": "gone"}, ["vmlinux: there is no file", "/gone"]),
        ({"root": "store"}, ["root: expected a file", "/store, which is none"]),
    ],
)
def test_a_mistake_is_named_with_file_and_key(
    tmp_path: Path, whole: dict[str, Any], change: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(RecipeError) as raised:
        load(tmp_path, {**whole, **change})
    message = str(raised.value)
    assert message.startswith(f"{tmp_path}/web.json: ")
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    ("key", "right"),
    [
        ("arch", "`uname -m`"),
        ("kernel", "as a boot loader takes it"),
        ("initrd", "path of the initrd"),
        ("init", '"systemd" or "agent"'),
        ("own_initrd", "mounts the root itself"),
    ],
)
def test_a_missing_key_is_named_with_what_it_is(
    tmp_path: Path, whole: dict[str, Any], key: str, right: str
) -> None:
    del whole[key]
    with pytest.raises(RecipeError, match=rf"web\.json: {key}: missing; it is .*{right}"):
        load(tmp_path, whole)


def test_a_file_that_is_no_description_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"web\.json: not valid JSON: .*line 1"):
        load(tmp_path, "{arch:")
    with pytest.raises(RecipeError, match=r"web\.json: expected a table of keys, found a list"):
        load(tmp_path, "[]")
    with pytest.raises(RecipeError, match=r"gone\.json: cannot read .*No such file"):
        load_described(str(tmp_path / "gone.json"))
    (tmp_path / "web.json").write_bytes(b'"\xe9"')
    with pytest.raises(RecipeError, match=r"web\.json: cannot read .*not UTF-8"):
        load_described(str(tmp_path / "web.json"))


def test_a_description_is_no_recipe(tmp_path: Path, whole: dict[str, Any]) -> None:
    load(tmp_path, whole)
    assert is_description("web.json")
    assert not is_description("web.toml")
    with pytest.raises(RecipeError, match=r"web\.json: no recipe: it describes an image"):
        load_recipe("web.json", relative_to=tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"cmdline": ["quiet"]},
        {"init": "agent"},
        {"own_initrd": False},
        {"root": None},
        {"vmlinux": None},
        {"kernel": "store/vmlinux"},
    ],
)
def test_the_digest_changes_with_what_boots(
    tmp_path: Path, whole: dict[str, Any], change: dict[str, Any]
) -> None:
    assert load(tmp_path, {**whole, **change}).digest != load(tmp_path, whole).digest


@pytest.mark.parametrize("name", ["bzImage", "vmlinux", "initrd", "root.erofs"])
def test_the_digest_changes_with_each_file(
    tmp_path: Path, whole: dict[str, Any], name: str
) -> None:
    file = tmp_path / "store" / name
    before = load(tmp_path, whole).digest
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    later = load(tmp_path, whole).digest
    file.write_text("longer than before")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    longer = load(tmp_path, whole).digest
    assert len({before, later, longer}) == 3


def test_the_digest_stays_where_only_labels_change(tmp_path: Path, whole: dict[str, Any]) -> None:
    before = load(tmp_path, whole).digest
    assert load(tmp_path, {**whole, "name": "x", "kernel_version": "7"}).digest == before
    assert load(tmp_path, json.dumps(whole, indent=4, sort_keys=True)).digest == before


def test_kept_machines_want_the_image_that_they_ran(tmp_path: Path, whole: dict[str, Any]) -> None:
    image = load(tmp_path, whole)
    shape = Shape(
        image=image.digest, image_name=image.name, vmm="", accelerator="tcg", cpu="",
        machine="microvm", memory=96, vcpus=1, nics=1,
    )  # fmt: skip
    manifest = parse_manifest({"nodes": {"web": {"image": image.recipe}}})
    machine = ArchivedMachine(number=1, machine_id="", shape=shape, absence="")
    archive = Archive(tmp_path / "elsewhere", manifest, {"web": machine})
    assert archive.images() == {"web": image}
    load(tmp_path, {**whole, "cmdline": []})
    with pytest.raises(UsageError, match=r"web\.json: the image shop .* was changed"):
        archive.images()

"""What is imported until the first machine starts: each module takes time that a user waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from attest.image.content import Content
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore

ATTEST = "from attest.cli import main; main()"
BY_CLICK = "from attest.cli.command import run; run()"

# Tells what is there when the first VMM is to be started, and ends this process instead.
UNTIL_VMM = """
import gc, json, os, sys

leave = os._exit  # that which a script finds is another one

collects = {}
order = []

def look(event, arguments):
    if event == "import" and arguments[0] == "attest.cluster.cluster":
        collects["while importing"] = gc.isenabled()
        order.append("imports")
    if event == "subprocess.Popen" and "unshare" in " ".join(map(str, arguments[1])):
        order.append("cell")
    if event == "subprocess.Popen" and "-name" in arguments[1]:
        collects["then"] = gc.isenabled()
        collects["from modules"] = gc.get_freeze_count() == 0
        found = {"modules": list(sys.modules), "collects": collects, "order": order}
        print(json.dumps(found), flush=True)
        leave(0)

sys.addaudithook(look)
from attest.cli import main
main()
"""

UNUSED = [
    # Of what runs no machine, or other machines.
    "attest.check",
    "attest.cli.orders",
    "attest.cli.watch",
    "attest.cluster.inputs",
    "attest.display",
    "attest.guest.backdoor",
    "attest.guest.tar_stream",
    "attest.guest.unit_probe",
    "attest.image.build",
    "attest.image.build_space",
    "attest.image.content_build",
    "attest.image.debian",
    "attest.image.initrd",
    "attest.image.steps",
    "attest.machine.end_jobs",
    "attest.machine.guest_logs",
    "attest.machine.listening",
    "attest.report.first_answer",
    "attest.report.junit",
    "attest.report.traceback",
    "attest.script.again",
    "attest.script.console",
    "attest.script.modules",
    "attest.support.extras",
    "attest.support.file_changes",
    "attest.vmm.cloud_hypervisor",
    "attest.vmm.firecracker",
    "attest.vmm.qemu.start_script",
    # Of what is large, and waits for a machine that runs, a failure, a terminal or a build.
    "PIL",
    "asyncio",
    "dataclasses",  # each class of which takes 0.6 ms, of `msgspec.Struct` 0.01
    "difflib",
    "getpass",
    "junitparser",
    "mypy",
    "ptpython",
    "qemu",
    "rich",
    "ssl",
    "tarfile",
    "tempfile",
    "unittest",
    "xml",
]


def modules(program: str, *arguments: str) -> set[str]:
    """What a program imports."""
    command = [sys.executable, "-X", "importtime", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def put_tiny_image(store: ImageStore) -> None:
    """Let a store have the image `tiny`, as if it was built."""
    recipe = load_recipe("tiny")
    content = store.directory / "contents/0"
    content.mkdir(parents=True)
    for name in ("vmlinuz", "vmlinux", "initrd.base"):
        (content / name).touch()
    (content / "content.json").write_bytes(msgspec.json.encode(Content("0", "6.1", [])))
    (store.directory / "inputs").mkdir()
    (store.directory / "inputs" / recipe.key()).symlink_to("../contents/0")
    store.build(recipe)


@pytest.fixture(scope="module")
def until_vmm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What there is when a run's first VMM is to be started."""
    directory = tmp_path_factory.mktemp("run")
    put_tiny_image(ImageStore(directory / "cache/attest/images"))
    (directory / "test.toml").write_text(
        'script = "machine.connect()"\nnodes.machine.image = "tiny"\n'
    )
    qemu = directory / "qemu"
    qemu.write_text("#!/bin/sh\necho QEMU emulator version 10.0.2\n")
    qemu.chmod(0o755)
    command = [
        sys.executable,
        "-c",
        UNTIL_VMM,
        "run",
        "--accel",
        "tcg",
        str(directory / "test.toml"),
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "ATTEST_QEMU": str(qemu), "XDG_CACHE_HOME": str(directory / "cache")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_version_needs_nothing() -> None:
    needed = modules(ATTEST, "--version") - modules("")
    assert {each for each in needed if each.startswith("attest")} == {"attest", "attest.cli"}
    assert needed & {"click", "typing", "msgspec", "re", "enum", "importlib.metadata"} == set()


def test_the_version_is_told_as_click_would() -> None:
    told, by_click = (
        subprocess.check_output([sys.executable, "-c", program, "--version"], text=True)
        for program in (ATTEST, BY_CLICK)
    )
    assert told == by_click.replace("-c, ", "attest, ")


def test_a_run_gets_to_its_first_vmm(until_vmm: dict[str, Any]) -> None:
    assert {"attest.cluster.cluster", "attest.provision.warm", "attest.vmm.qemu.vmm"} <= set(
        until_vmm["modules"]
    )


@pytest.mark.parametrize("name", UNUSED)
def test_a_run_has_no_use_for(until_vmm: dict[str, Any], name: str) -> None:
    assert name not in until_vmm["modules"]


def test_no_garbage_is_looked_for_among_modules(until_vmm: dict[str, Any]) -> None:
    assert until_vmm["collects"] == {"while importing": False, "then": True, "from modules": False}


def test_the_cell_is_made_while_modules_are_imported(until_vmm: dict[str, Any]) -> None:
    assert until_vmm["order"] == ["cell", "imports"]

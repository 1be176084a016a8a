"""What is imported until the first machine starts: each module takes time that a user waits."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

# What `attest.cli.command` itself imports; its version is told as that of attest.
CLICK = """
import contextlib, gc, importlib, signal, types, typing
import click

@click.group()
@click.version_option("0")
def main(): ...

main()
"""
ATTEST = "from attest.cli import main; main()"

# Lists what is there when the first VMM is to be started, and ends this process instead.
UNTIL_VMM = """
import os, sys

def look(event, arguments):
    if event == "subprocess.Popen" and "-name" in arguments[1]:
        print(*sys.modules, flush=True)
        os._exit(0)

sys.addaudithook(look)
from attest.cli import main
main()
"""

UNUSED = [
    # Of what runs no machine, or other machines.
    "attest.check",
    "attest.display",
    "attest.guest.backdoor",
    "attest.guest.tar_stream",
    "attest.image.build_space",
    "attest.image.debian",
    "attest.image.initrd",
    "attest.image.layer_build",
    "attest.report.junit",
    "attest.report.traceback",
    "attest.script.console",
    "attest.vmm.cloud_hypervisor",
    "attest.vmm.firecracker",
    "attest.vmm.qemu.start_script",
    # Of what is large, and waits for a machine that runs, a failure, a terminal or a build.
    "PIL",
    "asyncio",
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
    """What a program of one line imports."""
    command = [sys.executable, "-X", "importtime", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


@pytest.fixture(scope="module")
def until_vmm(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The modules that are there when a run's first VMM is to be started."""
    directory = tmp_path_factory.mktemp("run")
    for name in ("kernel", "initrd"):
        (directory / name).touch()
    image = {
        "arch": platform.machine(), "kernel": "kernel", "initrd": "initrd", "init": "agent",
        "own_initrd": True,
    }  # fmt: skip
    (directory / "image.json").write_text(json.dumps(image))
    (directory / "test.toml").write_text(
        'script = "machine.connect()"\nnodes.machine.image = "image.json"\n'
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
    return set(done.stdout.split())


def test_the_version_needs_nothing_but_click() -> None:
    assert modules(ATTEST, "--version") - modules(CLICK, "--version") == {
        "attest", "attest.cli", "attest.cli.command", "attest.cli.group", "attest.errors",
    }  # fmt: skip


def test_a_run_gets_to_its_first_vmm(until_vmm: set[str]) -> None:
    assert {"attest.cluster.cluster", "attest.provision.warm", "attest.vmm.qemu.vmm"} <= until_vmm


@pytest.mark.parametrize("name", UNUSED)
def test_a_run_has_no_use_for(until_vmm: set[str], name: str) -> None:
    assert name not in until_vmm

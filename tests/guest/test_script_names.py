"""The global names of a script, as a run gives them to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import start_scripts

_SCRIPT = """
import os as module
import re

assert os is module and driver.machines == machines == machines_qemu == [machine]
assert machines_nspawn == []
assert [vlan.nr for vlan in vlans] == [1] and vlans == [vlan1] and isinstance(vlan1, VLan)
assert isinstance(machine, Machine) and Machine is BaseMachine is QemuMachine
assert driver.log is log and driver.out_dir == machine.out_dir
for name in ("start_all", "join_all", "retry", "polling_condition", "create_machine", "test_script",
             "run_tests", "subtest", "serial_stdout_on", "serial_stdout_off"):
    assert callable(globals()[name]) and callable(getattr(driver, name)), name
assert driver.vhost_vsock is None
dump_machine_ssh()

start_all()
machine.wait_for_job("multi-user.target")
log.log("plain")
log.info("informed")
log.warning("warned")
log.debug("for the journal")
with log.nested("a group"), log.subtest("a part"):
    machine.shell.send(b"(echo sent > /tmp/sent) &\\n")
    machine.wait_for_file("/tmp/sent")
assert machine.succeed("echo $DISPLAY; pwd") == ":0.0\\n/tmp\\n"

machine.succeed("echo hidden-line > /dev/ttyS0")
machine.wait_for_console_text("hidden-line")
serial_stdout_on()
machine.succeed("echo shown-line > /dev/ttyS0")
machine.wait_for_console_text("shown-line")
serial_stdout_off()
assert re.search("hidden-line\\n+shown-line", machine.get_console_log())
try:
    machine.succeed(1)
except Exception as refused:
    assert "machine: succeed: command: expected a text, found 1" in str(refused), refused
machine.succeed("sync")
log.error("the end")
"""


def test_script_globals(tmp_path: Path) -> None:
    manifest = tmp_path / "names.json"
    nodes = {"machine": {"image": "debian"}}
    manifest.write_text(json.dumps({"nodes": nodes, "script": _SCRIPT}))
    result = subprocess.run(
        [sys.executable, "-m", "attest", "run", "--accel", "tcg", manifest],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "\nthe end\n" in result.stderr, result.stderr
    for line in ("plain", "informed", "warning: warned", "a group", "subtest: a part"):
        assert f"  {line}" in result.stderr
    assert "machine: a shell in it: machine.shell_interact() in" in result.stderr
    assert "for the journal" not in result.stderr
    assert "machine: | shown-line" in result.stderr
    assert "machine: | hidden-line" not in result.stderr


def test_create_machine(tmp_path: Path) -> None:
    start = start_scripts.write(tmp_path, "made", share=False)
    script = f"""
made = create_machine({str(start)!r})
assert made.name == "made" and not made.booted
made.start()
assert made.succeed("echo yes") == "yes\\n"
made.crash()
again = create_machine({{"startCommand": {str(start)!r}, "name": "again"}})
assert again.succeed("echo yes") == "yes\\n"
"""
    manifest = tmp_path / "create.json"
    nodes = {"other": {"image": "tiny", "memory": 96}}
    manifest.write_text(json.dumps({"nodes": nodes, "script": script}))
    result = subprocess.run(
        [sys.executable, "-m", "attest", "run", "--accel", "tcg", manifest],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr

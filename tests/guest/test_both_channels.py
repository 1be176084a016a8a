"""What a script may use, with an agent and over a backdoor shell: the same but where said."""

from __future__ import annotations

import os
import shlex
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import start_scripts

from attest.cluster.cluster import Cluster
from attest.errors import CommandFailed, MachineError, UsageError, WaitFailed
from attest.guest.channel import Command
from attest.machine.completed import Completed
from attest.machine.machine import Machine
from attest.support.concurrency import wait_all

_LATER = "(sleep 0.3; {}) >/dev/null 2>&1 &"


@pytest.fixture(scope="module")
def shell_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two machines of start scripts: `shared` shares a directory with the host, `apart` none."""
    directory = tmp_path_factory.mktemp("scripts")
    nodes = {
        name: {
            "start_command": str(start_scripts.write(directory, name, share=name == "shared")),
            "ready_unit": "multi-user.target",
        }
        for name in ("apart", "shared")
    }
    with Cluster({"nodes": nodes}) as cluster:
        cluster.start_all()
        yield cluster


@pytest.fixture(params=["agent", "shared", "apart"])
def machine(request: pytest.FixtureRequest) -> Machine:
    """A machine, ready: with an agent, and of start scripts."""
    if request.param == "agent":
        cluster: Cluster = request.getfixturevalue("debian")
        return cluster["a"]
    return request.getfixturevalue("shell_cluster")[request.param]


@pytest.fixture(params=["agent", "shell"])
def one(request: pytest.FixtureRequest) -> Machine:
    """As `machine`, for what does not depend on a shared directory."""
    if request.param == "agent":
        cluster: Cluster = request.getfixturevalue("debian")
        return cluster["a"]
    return request.getfixturevalue("shell_cluster")["shared"]


# Commands


def test_succeed_and_fail(one: Machine) -> None:
    assert one.succeed("echo one", "echo two >&2; echo three") == "one\nthree\n"
    assert one.fail("echo seen; false") == "seen\n"
    with pytest.raises(CommandFailed) as caught:
        one.succeed("echo out; exit 3")
    assert (caught.value.status, caught.value.stdout) == (3, "out\n")
    with pytest.raises(CommandFailed, match="to fail"):
        one.fail("true")


@pytest.mark.parametrize(
    ("command", "status"),
    [("false | true", 1), ("echo $unset_name", 1), ("false; echo no", 1), ("exit 0", 0)],
)
def test_strict_bash(one: Machine, command: str, status: int) -> None:
    assert one.execute(command)[0] == status


def test_the_four_forms_of_execute(one: Machine) -> None:
    assert one.execute("echo x; exit 7") == (7, "x\n")
    assert one.execute("echo x; exit 7", check_return=False) == (-1, "x\n")
    one.succeed("rm -f /tmp/done")
    assert one.execute("touch /tmp/done", check_output=False) == (-2, "")
    one.wait_for_file("/tmp/done")
    assert one.execute("echo x; sleep 60", timeout=1) == (124, "x\n")


def test_a_time_limit_ends_what_does_not_want_to_end(one: Machine) -> None:
    assert one.execute("trap '' TERM; while true; do sleep 1; done", timeout=1)[0] == 124
    assert one.execute("exit 124", timeout=100) == (124, "")


def test_background_processes_hold_the_output(one: Machine) -> None:
    assert one.succeed("(sleep 0.3; echo late) & echo early") == "early\nlate\n"


def test_output_of_any_kind_and_size(one: Machine) -> None:
    assert one.succeed(r"printf 'a\xffb\n'") == "a\ufffdb\n"
    assert one.succeed("printf ''") == ""
    assert one.succeed("echo 'two\nlines' 'it'\\''s'") == "two\nlines it's\n"
    assert len(one.succeed("head -c 3000000 /dev/zero | tr '\\0' x")) == 3_000_000
    assert len(one.succeed(f"echo {'y' * 100_000}")) == 100_001


def test_output_waits_for_a_host_that_is_busy(one: Machine) -> None:
    output = bytearray()
    busy = threading.Event()

    def take(data: bytes) -> None:
        busy.wait(1)
        busy.set()
        output.extend(data)

    one._lifecycle.ready().run(Command("head -c 3000000 /dev/zero"), stdout=take)
    assert len(output) == 3_000_000


def test_a_command_has_no_input(one: Machine) -> None:
    assert one.succeed("cat; echo read") == "read\n"


def test_commands_at_once_keep_their_outputs_apart(one: Machine) -> None:
    outputs = wait_all(range(12), lambda n: one.succeed(f"echo {n}"))
    assert outputs == [f"{n}\n" for n in range(12)]


def test_a_user_and_an_environment(one: Machine) -> None:
    process = one.spawn("id -un; echo $WORD", user="nobody", env={"WORD": "two words"})
    assert process.wait().stdout == b"nobody\ntwo words\n"


def test_run(one: Machine) -> None:
    assert one.run("echo out; exit 7") == Completed(7, "out\n", "")
    assert one.run(["echo", "$HOME", "it's"]).stdout == "$HOME it's\n"
    assert one.run("false; echo no").status == 1  # strict, as `succeed`
    assert one.run(["sh", "-c", "kill -9 $$"]).status == 128 + 9
    assert one.run(["printf", r"\377"]).stdout == "\ufffd"
    assert one.run("cat", stdin="").stdout == ""


def test_run_can_check(one: Machine) -> None:
    assert one.run("echo fine", check=True).stdout == "fine\n"
    with pytest.raises(CommandFailed, match=r"`ls '/no such'` was required to succeed: exit code"):
        one.run(["ls", "/no such"], check=True)


@pytest.mark.parametrize("check", [False, True])
def test_run_raises_when_its_time_is_over(one: Machine, check: bool) -> None:
    with pytest.raises(CommandFailed, match=r"to end in 0\.5 s: exit code 124") as caught:
        one.run("echo before; sleep 60", timeout=0.5, check=check)
    assert (caught.value.status, caught.value.stdout) == (124, "before\n")
    assert one.run("exit 124", timeout=60).status == 124


def test_run_as_another_elsewhere(one: Machine) -> None:
    assert one.run("pwd").stdout == "/tmp\n"
    assert one.run(["pwd"]).stdout == "/tmp\n"
    assert one.run("pwd", cwd="/var/lib").stdout == "/var/lib\n"
    assert one.run(["pwd"], cwd="/var/lib").stdout == "/var/lib\n"
    done = one.run("id -un; pwd; echo $WORD", user="nobody", env={"WORD": "two words"}, cwd="/usr")
    assert done.stdout == "nobody\n/usr\ntwo words\n"


# Waits


def test_repeated_commands(one: Machine) -> None:
    one.succeed("rm -f /tmp/count")
    command = "echo x >>/tmp/count; test $(wc -l </tmp/count) -ge 3; cat /tmp/count"
    assert one.wait_until_succeeds(command) == "x\nx\nx\n"
    with pytest.raises(WaitFailed, match=r"did not succeed in 3 s: exit code 4\n.*:\n  \| why"):
        one.wait_until_succeeds("echo why; exit 4", timeout=3)
    command = "test ! -e /tmp/slow || sleep 9; touch /tmp/slow; echo quick; exit 5"
    with pytest.raises(WaitFailed, match=r"did not succeed in 3 s: exit code 5\n.*:\n  \| quick"):
        one.wait_until_succeeds(command, timeout=3)
    one.succeed("touch /tmp/there", _LATER.format("rm /tmp/there"))
    one.wait_until_fails("test -e /tmp/there")


def test_an_attempt_has_a_limit_of_its_own(one: Machine) -> None:
    one.succeed("rm -f /tmp/tries")
    command = "echo x >>/tmp/tries; test $(wc -l </tmp/tries) -ge 3 || sleep 60; echo {}"
    assert one.wait_until_succeeds(command.format("up"), attempt_timeout=1) == "up\n"
    one.wait_until_fails("sleep 60", timeout=60, attempt_timeout=timedelta(seconds=0.5))
    with pytest.raises(WaitFailed, match=r"did not succeed in 1 s: exit code 124 \(time limit"):
        one.wait_until_succeeds("sleep 60", timeout=1, attempt_timeout=0.5)
    assert one.wait_until_succeeds("sleep 0.2; echo once", timeout=0) == "once\n"


def test_units(one: Machine) -> None:
    one.wait_for_unit("multi-user.target")
    one.succeed("systemd-run --quiet --no-block --unit later --property Type=notify "
                "sh -c 'sleep 0.5; systemd-notify --ready; sleep 1000'")  # fmt: skip
    one.wait_for_unit("later.service", timeout=60)
    assert one.get_unit_property("later.service", "ActiveState") == "active"
    assert one.get_unit_info("later.service")["Id"] == "later.service"
    one.require_unit_state("later.service")
    one.stop_job("later.service")
    with pytest.raises(WaitFailed, match="inactive"):
        one.require_unit_state("later.service")


def test_a_unit_that_failed_ends_the_wait_with_its_journal(one: Machine) -> None:
    # Of type oneshot, it is not active before it has failed.
    broken = "systemd-run --quiet --unit broken --property Type=oneshot"
    one.execute(f"{broken} sh -c 'echo the reason; exit 9'")
    with pytest.raises(WaitFailed) as caught:
        one.wait_for_unit("broken.service", timeout=60)
    assert caught.value.state["ActiveState"] == "failed"
    assert caught.value.state["Result"] == "exit-code"
    assert caught.value.state["ExecMainStatus"] == "9"
    assert "the reason" in str(caught.value)
    one.succeed("systemctl reset-failed broken.service")


_UNITS = {
    "idle": "[Service]\nType=oneshot\nExecStart=true",
    "masked": "",
    "work": "[Service]\nType=oneshot\nExecStart=sleep 0.5",
    "stays": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=sleep 0.5",
    "bad": "[Service]\nType=oneshot\nExecStart=sh -c 'echo the reason; exit 4'",
    "skipped": "[Unit]\nConditionPathExists=/nope\n[Service]\nType=oneshot\nExecStart=true",
}


@pytest.fixture
def units(one: Machine) -> Iterator[Machine]:
    """A machine with units of all kinds, which others have as it was."""
    for name, text in _UNITS.items():
        path = f"/run/systemd/system/{name}.service"
        one.succeed(f"echo {shlex.quote(text)} > {path}" if text else f"ln -sf /dev/null {path}")
    one.succeed("systemctl daemon-reload")
    yield one
    files = " ".join(f"/run/systemd/system/{name}.service" for name in _UNITS)
    one.succeed("systemctl stop stays", "systemctl reset-failed", f"rm {files}")
    one.succeed("systemctl daemon-reload")


def test_a_unit_that_cannot_come_ends_the_wait(units: Machine) -> None:
    for unit, reason in {
        "idle": r"it is inactive \(dead\), and no job is pending",
        "masked": "it is masked",
        "nonesuch": "systemd knows no unit of that name",
    }.items():
        said = f"unit {unit}.service did not become active: {reason}"
        with pytest.raises(WaitFailed, match=said):
            units.wait_for_unit(unit, timeout=60)


def test_a_unit_may_be_awaited_in_any_state(units: Machine) -> None:
    units.wait_for_unit("multi-user.target", timeout=0)
    units.succeed("systemctl start stays", _LATER.format("systemctl stop stays"))
    units.wait_for_unit("stays", state="inactive", timeout=60)
    units.execute("systemctl start bad")
    units.wait_for_unit("bad", state="failed", timeout=0)
    with pytest.raises(WaitFailed, match=r"did not become inactive: it has failed \(exit code 4\)"):
        units.wait_for_unit("bad", state="inactive", timeout=60)
    with pytest.raises(WaitFailed, match="systemd knows no unit of that name"):
        units.wait_for_unit("nonesuch", state="inactive", timeout=60)


def test_units_that_end_are_awaited(units: Machine) -> None:
    units.succeed("systemctl start --no-block work stays")
    units.wait_until_unit_finishes("work.service", timeout=60)
    units.wait_until_unit_finishes("work", timeout=0)  # systemd may have forgotten it
    units.wait_until_unit_finishes("stays", timeout=60)
    units.succeed("systemd-run --quiet --no-block --unit gone true")
    units.wait_until_unit_finishes("gone", timeout=60)
    units.execute("systemctl start bad")
    units.execute("systemctl start skipped")
    for unit, reason in {
        "bad": r"it has failed \(exit code 4\)\n.*:\n(.*\n)*.* the reason",
        "skipped": "it was not started, as its conditions were not met",
        "idle": "it has not run, and no job is pending",
        "masked": "it is masked",
        "nonesuch": "systemd knows no unit of that name",
    }.items():
        with pytest.raises(WaitFailed, match=rf"unit {unit}\.service did not finish: {reason}"):
            units.wait_until_unit_finishes(unit, timeout=60)


def test_ports(one: Machine) -> None:
    one.succeed("systemd-run --quiet --unit server nc -lk ::1 7777")
    one.wait_for_open_port(7777, timeout=30)
    one.wait_for_open_port(7777, "[::1]", timeout=0)
    with pytest.raises(WaitFailed, match=r"port 7777 of localhost did not close in 0 s: open"):
        one.wait_for_closed_port(7777, timeout=0)
    one.succeed(_LATER.format("systemctl stop server"))
    one.wait_for_closed_port(7777, timeout=30)
    with pytest.raises(WaitFailed, match=r"did not open in 0 s: Connection refused"):
        one.wait_for_open_port(7777, timeout=timedelta(0))
    for wait in (one.wait_for_open_port, one.wait_for_closed_port):
        with pytest.raises(WaitFailed, match=r"port 7777 of nobody\.invalid did not "):
            wait(7777, "nobody.invalid", timeout=1)


def test_ports_that_listen_are_seen_without_a_connection(one: Machine) -> None:
    one.succeed(
        "systemd-run --quiet --unit once sh -c 'nc -l 127.0.0.1 7780 > /tmp/said'",
        "systemd-run --quiet --unit datagrams nc -lku ::1 7780",
    )
    one.wait_for_listening_port(7780, timeout=30)
    one.wait_for_listening_port(7780, "localhost", timeout=0)
    one.wait_for_listening_port(7780, "::1", protocol="udp", timeout=30)
    with pytest.raises(WaitFailed, match=r"nothing listened on TCP port 7780 of ::1 in 0 s"):
        one.wait_for_listening_port(7780, "::1", timeout=0)
    one.succeed("echo all of it | nc -N 127.0.0.1 7780; grep 'all of it' /tmp/said")
    one.succeed("systemctl stop datagrams", "sysctl -q net.ipv6.bindv6only=1")
    one.succeed("systemd-run --quiet --unit six nc -lk -6 :: 7781")
    one.wait_for_listening_port(7781, "::1", timeout=30)
    with pytest.raises(WaitFailed, match=r"TCP port 7781 of 127\.0\.0\.1 in 0 s"):
        one.wait_for_listening_port(7781, "127.0.0.1", timeout=0)
    one.succeed("systemctl stop six", "sysctl -q net.ipv6.bindv6only=0")


def test_files(one: Machine) -> None:
    one.succeed("rm -rf /tmp/deep", _LATER.format("mkdir -p /tmp/deep/er; touch /tmp/deep/er/f"))
    one.wait_for_file("/tmp/deep/er/f", timeout=30)
    one.wait_for_file("/tmp/deep/*/f", timeout=30)
    with pytest.raises(WaitFailed, match="/never"):
        one.wait_for_file("/never", timeout=0.5)


@pytest.mark.parametrize("datagram", [False, True])
def test_unix_sockets(one: Machine, datagram: bool) -> None:
    path = f"/tmp/socket-{datagram}"
    with pytest.raises(WaitFailed):
        one.wait_for_open_unix_socket(path, datagram, timeout=0.5)
    one.succeed(f"systemd-run --quiet --unit socket nc -lk{'u' if datagram else ''}U {path}")
    one.wait_for_open_unix_socket(path, datagram, timeout=30)
    one.succeed("systemctl stop socket")


def test_the_console(one: Machine) -> None:
    one.succeed("echo needle-in-console > /dev/ttyS0")
    one.wait_for_console_text("needle-in-con.*", timeout=30)
    with pytest.raises(WaitFailed):
        one.wait_for_console_text("never-on-the-console", timeout=0.5)


# Files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with one of everything that is copied."""
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "data").write_bytes(os.urandom(200_000))
    (root / "tool").write_text("#!/bin/sh\necho ran\n")
    (root / "tool").chmod(0o750)
    (root / "sub" / "link").symlink_to("../data")
    with (root / "sub" / "holes").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    (root / "sub" / "zeros").write_bytes(bytes(65_536))
    return root


def test_trees_go_in_and_out(machine: Machine, tree: Path) -> None:
    machine.succeed("rm -rf /tmp/in; mkdir -p /tmp/in/old")
    machine.copy_from_host(tree, "/tmp/in/new/deep")
    machine.copy_from_host(tree, "/tmp/in/old")
    assert (
        machine.succeed("/tmp/in/new/deep/tool; stat -c %a /tmp/in/old/tree/tool") == "ran\n750\n"
    )
    copies = "/tmp/in/new/deep/sub/holes /tmp/in/new/deep/sub/zeros"
    sparse, full = map(int, machine.succeed(f"stat -c %b {copies}").split())  # of 512 bytes
    assert (sparse < 128, full) == (True, 128), (sparse, full)
    machine.copy_from_machine("/tmp/in/new/deep", "back")
    copy = machine.out_dir / "back" / "deep"
    assert (copy / "data").read_bytes() == (tree / "data").read_bytes()
    assert (copy / "sub" / "link").readlink() == Path("../data")
    assert (copy / "sub" / "holes").read_bytes() == (tree / "sub" / "holes").read_bytes()
    assert (copy / "sub" / "holes").stat().st_blocks < 128
    assert (copy / "sub" / "zeros").stat().st_blocks == 128
    assert (copy / "tool").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("method", ["copy_from_host", "copy_from_host_via_shell"])
def test_a_file_goes_in(machine: Machine, tree: Path, method: str) -> None:
    machine.succeed("rm -rf /tmp/single")
    getattr(machine, method)(str(tree / "data"), "/tmp/single/with blank")
    getattr(machine, method)(str(tree / "tool"), "/tmp/single/with blank")
    assert machine.succeed("'/tmp/single/with blank'") == "ran\n"


def test_what_is_not_there_is_not_copied(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="/nonesuch"):
        machine.copy_from_machine("/nonesuch")
    with pytest.raises(UsageError, match="nonesuch"):
        machine.copy_from_host(tmp_path / "nonesuch", "/tmp")
    assert machine.succeed("echo alive") == "alive\n"


# The network, and the machine itself


def test_a_forwarded_port(one: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reply = "HTTP/1.0 200 OK\\r\\nContent-Length: 6\\r\\n\\r\\ninside"
    serve = f'while printf "{reply}" | nc -Nl 8080; do :; done'
    one.succeed(
        "systemctl stop web 2>/dev/null || true",
        f"systemd-run --quiet --unit web sh -c '{serve}'",
    )
    one.wait_for_open_port(8080)
    one.forward_port(port, 8080)
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10) as answer:
                assert answer.read() == b"inside"
            return
        except OSError:  # `nc` is between two connections
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_attributes(one: Machine) -> None:
    assert one.booted
    assert one.connected
    assert one.is_up()
    assert one.pid
    assert one.state_dir.is_dir()
    assert one.shared_dir.is_dir()
    assert one.out_dir.is_dir()


@pytest.mark.parametrize("kind", ["agent", "shell"])
def test_lives(kind: str, tmp_path: Path) -> None:
    script = start_scripts.write(tmp_path, "one")
    node = {"start_command": str(script)} if kind == "shell" else {"image": "debian"}
    with Cluster({"nodes": {"one": node}}, accelerator="tcg", cold=True) as cluster:
        one = cluster["one"]
        assert not one.booted
        one.start(allow_reboot=True)
        before = one.succeed("cat /proc/sys/kernel/random/boot_id")
        one.reboot()
        assert one.succeed("cat /proc/sys/kernel/random/boot_id") != before
        one.crash()
        assert not one.booted
        assert not one.connected
        assert one.pid is None
        assert one.succeed("echo again") == "again\n"
        one.shutdown()
        assert not one.booted
        one.start()
        one.succeed("nohup sh -c 'sleep 0.5; poweroff' >/dev/null 2>&1 &")
        one.wait_for_shutdown()
        assert not one.booted


def test_its_qemu(shell_cluster: Cluster) -> None:
    machine = shell_cluster["shared"]
    assert "VM status: running" in machine.send_monitor_command("info status")
    machine.screenshot("screen")
    assert (machine.out_dir / "screen.png").read_bytes().startswith(b"\x89PNG")
    machine.send_key("ctrl-alt-f2")


def test_run_what_is_not_there(shell_cluster: Cluster, debian: Cluster) -> None:
    agent, shell = debian["a"], shell_cluster["shared"]
    for options in ({"command": ["nonesuch"]}, {"command": "true", "cwd": "/nonesuch"}):
        with pytest.raises(MachineError, match=r"could not be started: .*nonesuch"):
            agent.run(**options)
    assert shell.run(["nonesuch"]).status == 127
    assert shell.run("true", cwd="/nonesuch").status == 125


# What a shell cannot do


def test_what_a_shell_cannot_do_is_said(shell_cluster: Cluster) -> None:
    machine = shell_cluster["shared"]
    with pytest.raises(MachineError, match="a backdoor shell cannot give a command a terminal"):
        machine.spawn("bash", pty=(24, 80))
    with pytest.raises(MachineError, match="a backdoor shell cannot give a command standard input"):
        machine.spawn("cat", stdin=True)
    with pytest.raises(MachineError, match="a backdoor shell cannot give a command standard input"):
        machine.run("cat", stdin="text")
    with pytest.raises(MachineError, match="start script cannot be saved"):
        machine.snapshot("now")
    with pytest.raises(MachineError, match="start script cannot be saved"):
        shell_cluster.checkpoint()


def test_errors_go_to_the_console(shell_cluster: Cluster) -> None:
    machine = shell_cluster["shared"]
    with pytest.raises(CommandFailed) as caught:
        machine.succeed("echo complaint >&2; exit 1")
    assert caught.value.stderr == ""
    machine.wait_for_console_text("complaint", timeout=30)

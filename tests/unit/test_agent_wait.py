"""WAIT: ports, sockets, files, processes and units."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.agent_client import (
    CANCELLED,
    DONE,
    FAILED,
    TIMED_OUT,
    WAIT,
    AgentClient,
    Fields,
    Result,
    Stream,
    agent_socket,
    client,
    root_only,
    running_agent,
    u32,
    u64,
)
from tests.unit.fake_systemd import FakeSystemd

__all__ = ["agent_socket", "client"]

(PORT_OPEN, PORT_CLOSED, SOCKET, FILE, UNIT, PROCESS, PROCESS_GONE, FILE_GONE) = range(1, 9)


def fields(kind: int, subject: str | Path, port: int = 0, *more: tuple[int, bytes]) -> Fields:
    found = [(1, u32(kind)), (2, os.fsencode(subject)), *more]
    return [*found, (3, u32(port))] if port else found


def is_so(client: AgentClient, kind: int, subject: str | Path, port: int = 0) -> bool:
    result, _ = client.run(WAIT, fields(kind, subject, port, (4, u64(100))))
    assert result.status in (DONE, TIMED_OUT), result
    return result.status == DONE


def waits(client: AgentClient, kind: int, subject: str | Path, port: int = 0) -> Stream:
    """A wait that is under way and not fulfilled."""
    stream = client.open(WAIT, fields(kind, subject, port))
    client.run(8, [])
    assert stream.result is None, stream.result
    return stream


@pytest.fixture
def port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        found: int = sock.getsockname()[1]
    return found


def test_port(client: AgentClient, port: int) -> None:
    opening = waits(client, PORT_OPEN, "127.0.0.1", port)
    assert is_so(client, PORT_CLOSED, "127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)):
        assert client.finish(opening).status == DONE
        assert is_so(client, PORT_OPEN, "localhost", port)
        closing = waits(client, PORT_CLOSED, "127.0.0.1", port)
    assert client.finish(closing).status == DONE


@pytest.mark.parametrize("host", ["localhost", "::1", "[::1]", "LOCALHOST"])
def test_a_port_is_open_where_any_address_of_its_name_accepts(
    client: AgentClient, port: int, host: str
) -> None:
    assert is_so(client, PORT_CLOSED, host, port)
    with socket.create_server(("::1", port), family=socket.AF_INET6):
        assert is_so(client, PORT_OPEN, host, port)
        assert is_so(client, PORT_CLOSED, "127.0.0.1", port)
        closing = waits(client, PORT_CLOSED, host, port)
    assert client.finish(closing).status == DONE


@pytest.mark.parametrize("kind", [PORT_OPEN, PORT_CLOSED])
@pytest.mark.parametrize("host", ["nobody.invalid", "[nobody]", "[", "]", "[]", "::1]"])
def test_port_of_a_name_that_is_not_known(
    client: AgentClient, port: int, host: str, kind: int
) -> None:
    result, _ = client.run(WAIT, fields(kind, host, port))
    assert result.status == FAILED
    assert result.message == (
        f"{host} is neither an address nor in /etc/hosts, and no name server is asked"
    )


def test_a_wait_that_is_over_says_what_it_saw(client: AgentClient, port: int) -> None:
    result, _ = client.run(WAIT, fields(PORT_OPEN, "127.0.0.1", port, (4, u64(50))))
    assert result.status == TIMED_OUT
    assert result.message == "Connection refused"


def test_what_is_so_is_seen_in_the_shortest_time(
    client: AgentClient, port: int, tmp_path: Path
) -> None:
    with socket.create_server(("::1", port), family=socket.AF_INET6):
        result, _ = client.run(WAIT, fields(PORT_OPEN, "localhost", port, (4, u64(1))))
    assert (result.status, result.value) == (DONE, "open")
    result, _ = client.run(WAIT, fields(PORT_CLOSED, "localhost", port, (4, u64(1))))
    assert result.status == DONE
    result, _ = client.run(WAIT, fields(FILE, tmp_path, 0, (4, u64(1))))
    assert result.status == DONE


def asking(port: int) -> set[str]:
    """The ports from which connections to a port are under way that nothing has answered."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {words[1] for words in lines if words[2].endswith(f":{port:04X}") and words[3] == "02"}


def test_a_connection_that_nothing_answers_is_begun_anew(client: AgentClient, port: int) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", port))
        full.listen(0)
        # Its queue has a place for one; what comes then is dropped.
        with socket.create_connection(("127.0.0.1", port)):
            stream = client.open(
                WAIT, fields(PORT_OPEN, "127.0.0.1", port, *((7, u64(20)), (4, u64(800))))
            )
            ports: set[str] = set()
            while stream.result is None:
                ports |= asking(port)
                client.run(8, [])
            assert stream.result.status == TIMED_OUT
            assert stream.result.message == "Connection timed out"
            assert len(ports) > 1
            waiting = client.open(WAIT, fields(PORT_OPEN, "127.0.0.1", port, (7, u64(20))))
            client.run(8, [])
            full.accept()[0].close()
            assert client.finish(waiting).status == DONE


def test_a_link_local_address_needs_its_interface(client: AgentClient) -> None:
    for host in ("fe80::1", "fe80::1%nonesuch"):
        result, _ = client.run(WAIT, fields(PORT_OPEN, host, 9, (4, u64(50))))
        assert (result.status, result.message) == (TIMED_OUT, "No such device")


def test_file(client: AgentClient, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    coming = waits(client, FILE, path)
    assert is_so(client, FILE_GONE, path)
    path.parent.mkdir(parents=True)
    path.touch()
    assert client.finish(coming).status == DONE
    going = waits(client, FILE_GONE, path)
    shutil.rmtree(tmp_path / "a")
    assert client.finish(going).status == DONE


def test_file_that_is_renamed_into_place(client: AgentClient, tmp_path: Path) -> None:
    coming = waits(client, FILE, tmp_path / "file")
    (tmp_path / "other").touch()
    (tmp_path / "other").rename(tmp_path / "file")
    assert client.finish(coming).status == DONE


def test_file_in_a_directory_that_is_renamed_into_place(
    client: AgentClient, tmp_path: Path
) -> None:
    coming = waits(client, FILE, tmp_path / "late/file")
    (tmp_path / "early").mkdir()
    (tmp_path / "early/file").touch()
    (tmp_path / "early").rename(tmp_path / "late")
    assert client.finish(coming).status == DONE


def test_link_whose_end_comes_later(client: AgentClient, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("away/file")
    coming = waits(client, FILE, tmp_path / "link")
    (tmp_path / "away").mkdir()
    (tmp_path / "away/file").touch()
    assert client.finish(coming).status == DONE


def test_many_waits_for_files(client: AgentClient, tmp_path: Path) -> None:
    streams = [waits(client, FILE, tmp_path / str(number)) for number in range(200)]
    client.cancel(streams[0])
    for number in range(1, 200):
        (tmp_path / str(number)).touch()
    assert client.finish(streams[0]).status == CANCELLED
    for stream in streams[1:]:
        assert client.finish(stream).status == DONE


@pytest.mark.parametrize("datagram", [False, True])
def test_unix_socket(client: AgentClient, tmp_path: Path, datagram: bool) -> None:
    path = tmp_path / "socket"
    flags = (5, u32(int(datagram)))
    stream = client.open(WAIT, fields(SOCKET, path, 0, flags))
    with socket.socket(
        socket.AF_UNIX, socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM
    ) as sock:
        sock.bind(str(path))
        if not datagram:
            # Bound is not enough.
            result, _ = client.run(WAIT, fields(SOCKET, path, 0, (4, u64(50))))
            assert (result.status, "refused" in result.message) == (TIMED_OUT, True)
            sock.listen()
        assert client.finish(stream).status == DONE


def test_process(client: AgentClient, tmp_path: Path) -> None:
    program = tmp_path / "odd (name)"
    shutil.copy(shutil.which("sleep") or "", program)
    coming = waits(client, PROCESS, program.name)
    assert is_so(client, PROCESS_GONE, program.name)
    with subprocess.Popen([program, "1000"]) as process:
        result = client.finish(coming)
        assert (result.status, result.value) == (DONE, f"process {process.pid}")
        assert is_so(client, PROCESS, str(process.pid))
        by_name = waits(client, PROCESS_GONE, program.name)
        by_number = waits(client, PROCESS_GONE, str(process.pid))
        process.kill()  # a zombie until the end of the block, and gone all the same
        assert client.finish(by_name).status == DONE
        assert client.finish(by_number).status == DONE


@pytest.mark.parametrize(
    "wrong",
    [
        fields(0, "/x"),
        fields(9, "/x"),
        fields(FILE, "relative"),
        fields(SOCKET, "relative"),
        fields(PORT_OPEN, "127.0.0.1"),
        fields(PORT_OPEN, "127.0.0.1", 65_536),
        fields(FILE, ""),
        [(1, u32(FILE))],
    ],
)
def test_waits_that_cannot_be(client: AgentClient, wrong: Fields) -> None:
    result, _ = client.run(WAIT, wrong)
    assert (result.status, result.errno) == (FAILED, 22)
    assert result.message


def test_units_need_systemd(client: AgentClient) -> None:
    if client.welcome[3] == "systemd":
        pytest.skip("this host has systemd")
    result, _ = client.run(WAIT, fields(UNIT, "x.service"))
    assert (result.status, result.errno) == (FAILED, 95)


# --- units ---

BIND = 'mount --bind "$0" /run && exec "$@"'
"""Gives a command a /run of its own."""


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[FakeSystemd]:
    (tmp_path / "run").mkdir()
    fake = FakeSystemd(tmp_path / "run")
    with fake.serving():
        yield fake


@pytest.fixture
def guest(systemd: FakeSystemd, tmp_path: Path) -> Iterator[AgentClient]:
    """A session with an agent that takes the stand-in for its systemd."""
    prefix = ["unshare", "--mount", "sh", "-c", BIND, str(tmp_path / "run")]
    path = tmp_path / "agent"
    with running_agent(path, prefix=prefix), AgentClient(path) as client:
        assert client.welcome[3] == "systemd"
        yield client


def unit(name: str, wanted: str = "") -> Fields:
    return fields(UNIT, name, 0, *([(6, wanted.encode())] if wanted else []))


def await_look(client: AgentClient, systemd: FakeSystemd, looks: int) -> None:
    """Return when the agent has asked so often for a unit's state, and has got the answer."""
    await_calls(client, systemd, "GetAll", looks)


def await_calls(client: AgentClient, systemd: FakeSystemd, what: str, count: int) -> None:
    deadline = time.monotonic() + 30
    while sum(call.startswith(what) for call in systemd.calls) < count:
        assert time.monotonic() < deadline, "the agent did not ask"
        time.sleep(0.002)
    client.run(8, [])


def failure(result: Result) -> tuple[int, str]:
    assert result.status == FAILED, result
    return result.errno or 0, result.state


@root_only
def test_unit_that_is_active(guest: AgentClient, systemd: FakeSystemd) -> None:
    systemd.unit("9-a@b.service", "active")
    result, _ = guest.run(WAIT, unit("9-a@b.service"))
    assert (result.status, result.value) == (DONE, "active")
    asked = [call for call in systemd.calls if call.startswith("Get")]
    assert asked == ["Get org.freedesktop.systemd1.Unit ActiveState"]


@root_only
def test_unit_that_becomes_active(guest: AgentClient, systemd: FakeSystemd) -> None:
    systemd.unit("x.service", "activating", job=7)
    stream = guest.open(WAIT, unit("x.service"))
    await_look(guest, systemd, 1)
    systemd.unit("x.service", "active")
    systemd.changed("x.service")
    assert guest.finish(stream).status == DONE


@root_only
def test_unit_that_fails(guest: AgentClient, systemd: FakeSystemd) -> None:
    systemd.unit("x.service", "activating", job=7)
    stream = guest.open(WAIT, unit("x.service"))
    await_look(guest, systemd, 1)
    systemd.unit("x.service", "failed", result="exit-code", status=7)
    systemd.changed("x.service")
    _, state = failure(guest.finish(stream))
    assert state == "ActiveState=failed\nSubState=sub-failed\nResult=exit-code\nExecMainStatus=7\n"


@root_only
def test_inactive_unit_without_jobs(guest: AgentClient, systemd: FakeSystemd) -> None:
    systemd.unit("x.service", "inactive")
    _, state = failure(guest.run(WAIT, unit("x.service"))[0])
    assert state.startswith("ActiveState=inactive\n")


@root_only
def test_inactive_unit_while_others_have_jobs(guest: AgentClient, systemd: FakeSystemd) -> None:
    systemd.unit("x.service", "inactive")
    systemd.jobs = 2
    last = "Get org.freedesktop.systemd1.Service ExecMainStatus"
    stream = guest.open(WAIT, unit("x.service"))
    await_calls(guest, systemd, last, 1)
    systemd.tell("JobRemoved", "/org/freedesktop/systemd1", "uoss", 5, "/j", "y.service", "done")
    await_calls(guest, systemd, last, 2)
    assert stream.result is None
    systemd.jobs = 0
    systemd.tell("JobRemoved", "/org/freedesktop/systemd1", "uoss", 6, "/j", "z.service", "done")
    failure(guest.finish(stream))


@root_only
def test_inactive_unit_during_start_up(guest: AgentClient, systemd: FakeSystemd) -> None:
    systemd.unit("x.service", "inactive")
    systemd.finished = 0
    stream = guest.open(WAIT, unit("x.service"))
    await_look(guest, systemd, 1)
    assert stream.result is None
    systemd.finished = 123
    systemd.tell("StartupFinished", "/org/freedesktop/systemd1", "tttttt", 1, 2, 3, 4, 5, 6)
    failure(guest.finish(stream))


@root_only
def test_unit_that_systemd_does_not_know(guest: AgentClient, systemd: FakeSystemd) -> None:
    systemd.unit("x.service", "inactive", load="not-found")
    systemd.jobs = 3
    errno, _ = failure(guest.run(WAIT, unit("x.service"))[0])
    assert errno == 2


@root_only
def test_what_a_unit_is_said_to_be(guest: AgentClient, systemd: FakeSystemd) -> None:
    def said(wanted: str = "") -> str:
        result, _ = guest.run(WAIT, unit("x.service", wanted))
        assert result.status == FAILED, result
        return result.message

    systemd.unit("x.service", "failed", result="exit-code", status=4)
    assert said() == said("inactive") == "it has failed (exit code 4)"
    systemd.unit("x.service", "failed", result="signal", status=9)
    assert said() == "it has failed (signal 9)"
    systemd.unit("x.service", "failed", result="timeout", status=9)
    assert said() == "it has failed (timeout)"
    systemd.unit("x.service", "inactive")
    assert said("failed") == "it is inactive (sub-inactive), and no job is pending"
    systemd.unit("x.service", "inactive", load="masked")
    assert said() == "it is masked"
    systemd.unit("x.service", "inactive", load="not-found")
    assert said() == said("inactive") == "systemd knows no unit of that name"


@root_only
def test_unit_that_is_about_to_start_is_not_inactive(
    guest: AgentClient, systemd: FakeSystemd
) -> None:
    systemd.unit("x.service", "inactive", job=7)
    stream = guest.open(WAIT, unit("x.service", "inactive"))
    await_look(guest, systemd, 1)
    assert stream.result is None
    systemd.unit("x.service", "inactive", load="not-found")  # it has run, and is forgotten
    systemd.changed("x.service")
    assert guest.finish(stream).status == DONE


@root_only
def test_unit_that_is_so_is_seen_in_the_shortest_time(
    guest: AgentClient, systemd: FakeSystemd
) -> None:
    systemd.unit("x.service", "active")
    result, _ = guest.run(WAIT, [*unit("x.service"), (4, u64(1))])
    assert result.status == DONE
    systemd.unit("x.service", "activating", job=3)
    result, _ = guest.run(WAIT, [*unit("x.service"), (4, u64(1))])
    assert result.status == TIMED_OUT
    assert result.message == "it is activating (sub-activating), with a job pending"


@root_only
def test_unit_that_cannot_be(guest: AgentClient) -> None:
    result, _ = guest.run(WAIT, unit("no unit"))
    assert failure(result)[0] == 22
    assert "no unit" in result.message


@root_only
@pytest.mark.parametrize("wanted", ["inactive", "failed"])
def test_another_state_is_wanted(guest: AgentClient, systemd: FakeSystemd, wanted: str) -> None:
    systemd.unit("x.service", "active")
    stream = guest.open(WAIT, unit("x.service", wanted))
    await_look(guest, systemd, 1)
    systemd.unit("x.service", wanted)
    systemd.changed("x.service")
    result = guest.finish(stream)
    assert (result.status, result.value) == (DONE, wanted)


@root_only
def test_alias_of_a_unit(guest: AgentClient, systemd: FakeSystemd) -> None:
    systemd.unit("real.service", "activating")
    systemd.units["alias.service"] = systemd.units["real.service"]
    stream = guest.open(WAIT, unit("alias.service"))
    await_look(guest, systemd, 1)
    systemd.unit("real.service", "active")
    systemd.changed("real.service")
    assert guest.finish(stream).status == DONE


@root_only
def test_systemd_that_is_executed_anew(guest: AgentClient, systemd: FakeSystemd) -> None:
    systemd.unit("x.service", "activating")
    stream = guest.open(WAIT, unit("x.service"))
    await_look(guest, systemd, 1)
    systemd.unit("x.service", "active")
    systemd.hang_up()
    assert guest.finish(stream).status == DONE


@root_only
def test_what_is_no_bus(guest: AgentClient, systemd: FakeSystemd) -> None:
    systemd.garbage = b"l\2\0\1\xff\xff\xff\xff\1\0\0\0\xff\xff\xff\xff"
    result, _ = guest.run(WAIT, [*unit("x.service"), (4, u64(300))])
    assert result.status == TIMED_OUT
    assert "not D-Bus" in result.message or "private" in result.message


@root_only
def test_many_units(guest: AgentClient, systemd: FakeSystemd) -> None:
    streams = []
    for number in range(30):
        systemd.unit(f"{number}.service", "activating")
        streams.append(guest.open(WAIT, unit(f"{number}.service")))
    await_look(guest, systemd, 30)
    for number in range(30):
        systemd.unit(f"{number}.service", "active" if number % 2 else "failed")
        systemd.changed(f"{number}.service")
    for number, stream in enumerate(streams):
        assert guest.finish(stream).status == (DONE if number % 2 else FAILED)

"""Shells that wait for a command run it as a fresh `bash -euo pipefail -c` does."""

import contextlib
import os
import re
import select
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.unit.agent_client import (
    DONE,
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

__all__ = ["agent_socket", "client"]

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")

STRICT = (8, u32(4))
COLD = (5, b"USER=root")
"""An environment that changes nothing, but makes the agent start a fresh shell."""

SNIPPETS = [
    "true",
    "false",
    "exit 3",
    "",
    "#",
    " ",
    "env | sort",
    "export -p",
    "set -o",
    "shopt",
    "shopt -o",
    "ulimit -a",
    "umask",
    "pwd; echo $OLDPWD",
    "alias; hash; jobs; trap; dirs; complete",
    "echo $-",
    "echo $0 $# $* $? $!",
    "echo $_",
    "echo $SHLVL $BASH_SUBSHELL $BASH_VERSION $BASH $UID $EUID",
    "echo $LINENO\necho $LINENO\n\necho $LINENO",
    '[[ $$ == "$BASHPID" ]] && echo same',
    "echo $BASH_EXECUTION_STRING; echo 'a  b'",
    "echo ${BASH_ENV-unset} ${BASH_SOURCE-unset} ${FUNCNAME-unset} ${REPLY-unset}",
    "echo $HOSTNAME $HOSTTYPE $OSTYPE $MACHTYPE $IFS $OPTIND $PS4",
    "echo $((SECONDS < 5))",
    "ls /proc/self/fd",
    "ls /proc/$$/fd; :",
    "for f in /proc/self/fd/[012]; do readlink $f; done | sed s/[0-9]*]/]/",
    "cut -d' ' -f5-8 /proc/self/stat | tr -dc ' -'",
    "grep -E '^(Sig|Cap|NoNewPrivs|Groups|Uid|Gid|Umask)' /proc/self/status",
    "cat /proc/self/cgroup /proc/self/limits",
    "if",
    "echo a\nif true; then\necho b",
    "echo a; fi",
    "echo 'unterminated",
    "echo $(",
    "cat <<EOF\nhello $((1 + 1))\nEOF",
    "cat <<'EOF'\nunfinished",
    "nosuchcommand --option",
    "echo a\nnosuchcommand\necho b",
    "/etc/passwd",
    "/no/such/program",
    "exec nosuchcommand",
    "exec sh -c 'exit 6'",
    "exec 2>&1; echo to both >&2",
    "exec >&-; echo lost",
    "return 3",
    "break; continue; echo on",
    "kill -9 $$",
    "kill -TERM $$",
    "sh -c 'kill -SEGV $$'",
    "sh -c 'kill -KILL $$'; echo $?",
    "(exit 7); echo $?; (exit 8)",
    "trap 'echo bye' EXIT; exit 4",
    "trap 'echo term' TERM; kill -TERM $$; echo on",
    "trap 'echo err $LINENO' ERR; false; echo on",
    "false; echo never",
    "if false; then :; fi; echo on; (false); echo never",
    "echo $nosuchvariable; echo never",
    "echo ${nosuch:?is missing}; echo never",
    "false | true; echo never",
    "false || true; set +e; false; echo on",
    "set +u; echo $nosuchvariable; echo on",
    "set -x; echo traced; true",
    "set -o posix; set -o | grep posix",
    "sleep 0.01 & wait $!; echo $?",
    "sleep 0.01 & wait; echo done",
    "false | true; echo ${PIPESTATUS[@]}",
    "declare -i x=5+5; x+=1; echo $x; declare -p x",
    "a=(1 2 3); echo ${a[@]: -1} ${#a[@]}",
    "f() { local v=1; return 9; }; f; echo $? ${v-unset}",
    "read -r line; echo $? $line",
    'echo \'quotes "and" $dollars\'; echo "it\'s"',
    "printf '%s\\n' '$(touch /tmp/never)' \"\\`\"",
    "echo ä ö ü 漢字; printf '\\377\\n'",
    "cat /no/such; echo $?",
    "source /no/such; echo $?",
    "eval 'if'; echo $?",
    "readonly BASHPID_COPY=1; BASHPID_COPY=2; echo never",
    "let 1/0; echo $?; echo $((1/0)); echo never",
    "command -v cat; type -t if cd cat nosuch",
    "ulimit -n 50; ulimit -n",
    "cd /tmp && pwd",
    "test -t 0 || test -t 1 || test -t 2 || echo no terminal",
    "coproc cat; echo ${#COPROC[@]}; kill $COPROC_PID",
    "history; fc -l",
    "caller; echo $?",
    "echo " + "x" * 3900,
    "echo " + "x" * 10_000,
]


def shells(agent: int) -> list[int]:
    """The agent's prepared shells: the template, which is the oldest, and the fork that waits."""
    found = []
    for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        with contextlib.suppress(OSError):
            if b"BASH_ENV=" in Path(f"/proc/{child}/environ").read_bytes():
                found.append(int(child))
    return found


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def await_waiting_shell(agent: int) -> tuple[int, int]:
    """The template and the fork that waits, once there is one: in the recvmsg() of its socket."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            template, waiting = shells(agent)
            if state(waiting) == "S":
                return template, waiting
        time.sleep(0.002)
    raise AssertionError("no shell waits")


def agent_of(client: AgentClient) -> int:
    return int(client.sh("echo $PPID")[1].stdout)


def plain(stream: Stream, result: Result) -> tuple[str, bytes, bytes]:
    """What may be compared: PIDs differ, and how many signals all of a user's processes hold."""
    stdout, stderr = (
        re.sub(rb"\b\d{3,7}\b|(?<=SigQ:\t)\d+", b"N", text)
        for text in (stream.stdout, stream.stderr)
    )
    return str(result), stdout, stderr


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda text: ascii(text)[1:40])
def test_a_waiting_shell_is_like_a_fresh_one(client: AgentClient, snippet: str) -> None:
    agent = agent_of(client)
    await_waiting_shell(agent)
    warm_result, warm = client.sh(snippet, STRICT)
    cold_result, cold = client.sh(snippet, STRICT, COLD)
    assert plain(warm, warm_result) == plain(cold, cold_result)


def test_a_waiting_shell_is_used_and_replaced(client: AgentClient) -> None:
    agent = agent_of(client)
    template, waiting = await_waiting_shell(agent)
    assert int(client.sh("echo $$", STRICT)[1].stdout) == waiting
    again, successor = await_waiting_shell(agent)
    assert again == template
    assert successor != waiting


def test_the_command_line_shows_the_command(client: AgentClient) -> None:
    await_waiting_shell(agent_of(client))
    _, stream = client.sh("cat /proc/$$/cmdline; :", STRICT)
    assert stream.stdout.rstrip(b"\0") == b"bash\0-euo\0pipefail\0-c\0cat /proc/$$/cmdline; :"


def test_shells_do_not_share_random_numbers(client: AgentClient) -> None:
    agent = agent_of(client)
    drawn = set()
    for _ in range(4):
        await_waiting_shell(agent)
        drawn.add(client.sh("echo $RANDOM $RANDOM $RANDOM", STRICT)[1].stdout)
    assert len(drawn) == 4


def test_commands_at_once_are_all_forks(client: AgentClient) -> None:
    await_waiting_shell(agent_of(client))
    command = b"grep -c ^BASH_ENV= < <(tr '\\0' '\\n' < /proc/$$/environ); echo $$; sleep 0.05"
    streams = [client.open(1, [(1, command), STRICT]) for _ in range(20)]
    pids = set()
    for stream in streams:
        assert client.finish(stream).code == 0
        count, pid = stream.stdout.split()
        assert count == b"1"
        pids.add(pid)
    assert len(pids) == 20


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("which", ["template", "fork", "both"])
def test_a_shell_that_was_killed_or_stopped_is_not_missed(
    client: AgentClient, which: str, number: int
) -> None:
    agent = agent_of(client)
    template, waiting = await_waiting_shell(agent)
    for pid in {"template": [template], "fork": [waiting], "both": [template, waiting]}[which]:
        os.kill(pid, number)
    for _ in range(3):
        assert client.sh("echo on", STRICT)[1].stdout == b"on\n"
    if number == signal.SIGKILL:
        await_waiting_shell(agent)
    for pid in (template, waiting):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_a_stopped_shell_does_not_run_its_command_later(
    client: AgentClient, tmp_path: Path
) -> None:
    _, waiting = await_waiting_shell(agent_of(client))
    os.kill(waiting, signal.SIGSTOP)
    end = os.pidfd_open(waiting)
    file = tmp_path / "times"
    client.sh(f"echo once >> {file}", STRICT)
    os.kill(waiting, signal.SIGCONT)
    select.select([end], [], [])
    os.close(end)
    assert file.read_text() == "once\n"


def test_a_shell_has_the_limits_that_the_agent_has_now(tmp_path: Path) -> None:
    path = tmp_path / "agent"
    with running_agent(path) as process, AgentClient(path) as client:
        await_waiting_shell(process.pid)
        assert client.sh("prlimit --pid $PPID --core=4096", STRICT)[0].code == 0
        assert client.sh("ulimit -c", STRICT)[1].stdout == b"4\n"


def test_whatever_comes_after_a_command_finds_its_shell_gone(client: AgentClient) -> None:
    at_once: Fields = [(1, u32(7)), (4, u64(0))]
    for _ in range(5):
        await_waiting_shell(agent_of(client))
        # Which takes long to free.
        _, stream = client.sh("echo $$; printf -v memory %100000000s", STRICT)
        assert client.run(WAIT, [*at_once, (2, stream.stdout.strip())])[0].status == DONE


def test_shells_end_with_their_agent(tmp_path: Path) -> None:
    path = tmp_path / "agent"
    with running_agent(path) as process:
        ends = [os.pidfd_open(pid) for pid in await_waiting_shell(process.pid)]
    for end in ends:
        select.select([end], [], [])
        os.close(end)


@root_only
def test_a_shell_without_loadable_builtins_is_started_for_each_command(tmp_path: Path) -> None:
    dash = tmp_path / "bash"
    dash.write_text('#!/bin/sh\n[ "$1" != -euo ] || shift 2\nexec dash "$@"\n')
    dash.chmod(0o755)
    other = f'mount --bind {dash} /bin/bash && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", other, "sh"]
    path = tmp_path / "agent"
    with running_agent(path, prefix=prefix) as process, AgentClient(path) as client:
        for _ in range(3):
            assert client.sh("echo on ${BASH-dash}", STRICT)[1].stdout == b"on dash\n"
            time.sleep(0.02)
        assert shells(process.pid) == []

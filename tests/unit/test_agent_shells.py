"""Shells that wait for a command run it as a fresh `bash -c` does."""

import os
import re
import shutil
import time
from pathlib import Path

import pytest
from agent_client import AgentClient, Result, Stream, agent_socket, client

__all__ = ["agent_socket", "client"]

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")

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
    "set -e; false; echo never",
    "set -e; if false; then :; fi; echo on; (false); echo never",
    "set -u; echo $nosuchvariable; echo never",
    "echo ${nosuch:?is missing}; echo never",
    "set -euo pipefail; false | true; echo never",
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


def await_waiting_shell(client: AgentClient, agent: int) -> None:
    """Return when a shell waits: in the read() of its pipe."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
            try:
                environment = Path(f"/proc/{child}/environ").read_bytes()
                state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if b"BASH_ENV=/proc/self/fd/3" in environment and state == "S":
                return
        time.sleep(0.002)
    raise AssertionError("no shell waits")


def agent_of(client: AgentClient) -> int:
    return int(client.sh("echo $PPID", COLD)[1].stdout)


def plain(stream: Stream, result: Result) -> tuple[str, bytes, bytes]:
    """What may be compared: PIDs differ from run to run."""
    stdout, stderr = (
        re.sub(rb"\b\d{3,7}\b", b"N", text) for text in (stream.stdout, stream.stderr)
    )
    return str(result), stdout, stderr


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda text: ascii(text)[1:40])
def test_a_waiting_shell_is_like_a_fresh_one(client: AgentClient, snippet: str) -> None:
    agent = agent_of(client)
    await_waiting_shell(client, agent)
    warm_result, warm = client.sh(snippet)
    cold_result, cold = client.sh(snippet, COLD)
    assert plain(warm, warm_result) == plain(cold, cold_result)


def waiting(agent: int) -> list[int]:
    """The PIDs of an agent's waiting shells."""
    found = []
    for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        try:
            if b"BASH_ENV=" in Path(f"/proc/{child}/environ").read_bytes():
                found.append(int(child))
        except OSError:
            continue
    return found


def test_a_waiting_shell_is_used_and_replaced(client: AgentClient) -> None:
    agent = agent_of(client)
    await_waiting_shell(client, agent)
    shells = waiting(agent)
    pid = int(client.sh("echo $$")[1].stdout)
    assert pid in shells
    await_waiting_shell(client, agent)
    assert pid not in waiting(agent)


def test_the_command_line_shows_the_command(client: AgentClient) -> None:
    await_waiting_shell(client, agent_of(client))
    _, stream = client.sh("cat /proc/$$/cmdline; :")
    assert stream.stdout.rstrip(b"\0") == b"bash\0-c\0cat /proc/$$/cmdline; :"


def test_shells_do_not_share_random_numbers(client: AgentClient) -> None:
    agent = agent_of(client)
    drawn = set()
    for _ in range(4):
        await_waiting_shell(client, agent)
        drawn.add(client.sh("echo $RANDOM $RANDOM $RANDOM")[1].stdout)
    assert len(drawn) == 4


def test_a_burst_makes_more_shells_wait(client: AgentClient) -> None:
    agent = agent_of(client)
    streams = [client.open(1, [(1, b"sleep 0.05")]) for _ in range(20)]
    for stream in streams:
        assert client.finish(stream).code == 0
    deadline = time.monotonic() + 30
    while len(waiting(agent)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert len(waiting(agent)) <= 8


def test_a_shell_that_was_killed_is_not_missed(client: AgentClient) -> None:
    agent = agent_of(client)
    await_waiting_shell(client, agent)
    for pid in waiting(agent):
        os.kill(pid, 9)
    assert client.sh("echo on")[1].stdout == b"on\n"
    await_waiting_shell(client, agent)

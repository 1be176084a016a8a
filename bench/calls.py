"""System calls of a command and of all that it starts, as strace sees them, until a mark.

Not among them are those that only wait, of which there are more on a busy host, and `ioctl`: a
processor of a virtual machine runs in one, and would be slowed down.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["MARK", "Calls", "absence", "count", "parse"]

MARK = "/attest-bench-mark"
"""A path that no file has. Who asks for it says that nothing more is to be counted."""

_LEFT_OUT = "ioctl,futex,poll,ppoll,epoll_wait,epoll_pwait,clock_nanosleep,sched_yield"

_BEGUN = re.compile(r"(\d+) +(\w+)(\(.*)")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")
_RESULT = re.compile(r"\) += (-?\d+)(?: /\* (\d+) in strace's PID NS \*/)?$")
_MAKERS = ("clone", "clone3", "fork", "vfork")


@dataclass
class Calls:
    """What was called, and started.

    Attributes:
        driver: How often the command made each system call.
        helpers: The same of all that it started, but for the VMMs.
        vmms: The same of the VMMs.
        processes: How many processes were started, the VMMs among them.
        threads: How many threads the command started.
    """

    driver: Counter[str] = field(default_factory=Counter)
    helpers: Counter[str] = field(default_factory=Counter)
    vmms: Counter[str] = field(default_factory=Counter)
    processes: int = 0
    threads: int = 0


def absence() -> str:
    """Why nothing can be counted here; empty: it can."""
    return "" if shutil.which("strace") else "strace was not found: apt-get install strace"


def count(command: Sequence[str], env: Mapping[str, str], vmm: Path) -> Calls:
    """Run a command, and exit with what it said if it fails.

    Args:
        command: The command line.
        env: Its environment.
        vmm: The VMM's program.
    """
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "log")
        traced = [
            "strace", "--follow-forks", f"--trace=!{_LEFT_OUT}", "--seccomp-bpf", "--signal=none",
            "--quiet=all", "--string-limit=128", "--pidns-translation", f"--output={log}", *command,
        ]  # fmt: skip
        done = subprocess.run(
            traced, env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{shlex.join(traced)}\n{done.stdout}")
        with log.open(errors="replace") as lines:
            return parse(lines, vmm)


def parse(lines: Iterable[str], vmm: Path) -> Calls:
    """What strace has written, up to the mark.

    Args:
        lines: Its log, with numbers of processes and threads as strace has them.
        vmm: The VMM's program.
    """
    calls = Calls()
    made: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by thread
    before: Counter[str] = Counter()  # by those that became VMMs, as what they were
    makers: dict[str, str] = {}  # of threads
    unfinished: dict[str, str] = {}
    vmms = set()
    for line in lines:
        if MARK in line:
            break
        if begun := _BEGUN.match(line):
            thread, name, text = begun.groups()
            made[thread][name] += 1
            if text.endswith("<unfinished ...>"):
                unfinished[thread] = text
                continue
        elif resumed := _RESUMED.match(line):
            thread, name, rest = resumed.groups()
            text = unfinished.pop(thread, "") + rest
        else:
            continue
        result = _RESULT.search(text)
        if result is None:
            continue
        if name in _MAKERS and int(result[1]) > 0:
            if "CLONE_THREAD" in text:
                makers[result[2] or result[1]] = thread
            else:
                calls.processes += 1
        elif name == "execve" and result[1] == "0" and _starts(text, vmm):
            vmms.add(thread)
            before += made.pop(thread)
    command = next(iter(made))
    calls.helpers += before
    for thread, counter in made.items():
        leader = thread
        while leader in makers:
            leader = makers[leader]
        calls.threads += leader == command != thread
        whose = (
            calls.driver if leader == command else calls.vmms if leader in vmms else calls.helpers
        )
        whose += counter
    return calls


def _starts(text: str, vmm: Path) -> bool:
    return text.startswith(f'("{vmm}", ') and '"--version"' not in text

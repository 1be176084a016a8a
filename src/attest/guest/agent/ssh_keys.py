"""New SSH host keys for a guest that is the copy of another.

This host's `ssh-keygen` makes them: an emulated guest's takes ten times as long, and is used only
where the host has none.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from typing import Final

from attest.errors import MachineError
from attest.guest.agent.protocol import Fields, IdentityField
from attest.guest.channel import Channel, Command, Completed
from attest.support.text import plain_text

__all__ = ["new_host_keys"]

_PATH: Final = re.compile(r"/etc/ssh/ssh_host_(rsa|ecdsa|ed25519)_key")

_MOST: Final = 65_536
"""Characters of keys, at most; one pair of each type has 5,000."""

# Prints the public and the private key of each type, and an empty line after each pair. The shell
# removes its directory itself, so that nothing is left when the driver is killed meanwhile.
_MAKE: Final = """\
set -eu
comment=$1
shift
directory=$(mktemp -d)
trap 'wait; rm -rf "$directory"' EXIT
trap 'exit 1' HUP INT TERM
makers=
for type; do
    ssh-keygen -q -t "$type" -N '' -C "$comment" -f "$directory/$type" &
    makers="$makers $!"
done
for maker in $makers; do wait "$maker"; done
for type; do cat "$directory/$type.pub" "$directory/$type"; echo; done
"""


def new_host_keys(
    channel: Channel,
    machine: str,
    paths: list[str],
    hostname: str | None,
    *,
    limit: float = 120.0,
) -> bytes:
    """Make a key pair for each path, of the type that its name says.

    Args:
        channel: The connection to the guest.
        machine: The machine's name, for errors.
        paths: Private keys in the guest, as its agent reports them.
        hostname: The guest's host name, for the keys' comment; None asks the guest.
        limit: Seconds for making the keys; an emulated guest on an idle host takes 3 to 9.

    Returns:
        The fields of an IDENTITY request that puts the pairs in their places.

    Raises:
        MachineError: A path is of no known type, or `ssh-keygen` failed.
    """
    types = {path: _type(machine, path) for path in paths}
    if hostname is None:
        hostname = channel.run(Command(["uname", "-n"])).stdout.decode(errors="replace").strip()
    command = ["sh", "-c", _MAKE, "ssh-keygen", f"root@{hostname}", *types.values()]
    if shutil.which("ssh-keygen"):
        where, made = "on this host", _run_here(command, limit)
    else:
        where = "in the machine, as this host has no ssh-keygen"
        made = channel.run(Command(command, timeout=limit))
    if made.timed_out:
        raise _failed(machine, where, f"it did not end in {limit:g} s")
    pairs = _pairs(machine, where, made, len(types))
    fields = Fields()
    for path, pair in zip(types, pairs, strict=True):
        fields.text(IdentityField.SSH_HOST_KEY, f"{path}\n{pair}")
    return fields.encode()


def _type(machine: str, path: str) -> str:
    match = _PATH.fullmatch(path)
    if match is None:
        raise MachineError(
            machine,
            f"cannot replace its SSH host key {path[:200]!r}, which its copies would share: "
            "attest makes ssh_host_rsa_key, ssh_host_ecdsa_key and ssh_host_ed25519_key",
            hint="leave that key out of the image",
        )
    return match[1]


def _run_here(command: list[str], limit: float) -> Completed:
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:  # fmt: skip
        timed_out = False
        try:
            stdout, stderr = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            timed_out = True
            _end(process)
            stdout, stderr = process.communicate()
        except BaseException:
            _end(process)
            raise
    return Completed(process.returncode, stdout, stderr, timed_out)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)


def _pairs(machine: str, where: str, made: Completed, count: int) -> list[str]:
    """The key pairs that were printed: the public key's line, then the private key's text."""
    text = made.stdout.decode(errors="replace")
    *pairs, rest = text.split("\n\n")
    whole = all(pair.partition("\n")[2].startswith("-----BEGIN ") for pair in pairs)
    if made.status != 0:
        said = plain_text(made.stderr.decode(errors="replace")).strip()
        why = said[-1000:] or f"exit code {made.status}"
    elif len(pairs) != count or rest or not whole or "\0" in text or len(text) > _MOST:
        why = "what it printed are no key pairs"
    else:
        return [f"{pair}\n" for pair in pairs]
    raise _failed(machine, where, why)


def _failed(machine: str, where: str, why: str) -> MachineError:
    return MachineError(machine, f"ssh-keygen could not make new SSH host keys {where}: {why}")

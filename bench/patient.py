"""The command `attest` for a host on which all is slow, as it is under strace: clones have minutes.

``python -m bench.patient run …`` is ``attest run …``.
"""

from __future__ import annotations

from attest.machine import instance_states


def main() -> None:
    """Run the command."""
    vars(instance_states)["DEFAULT_LIMITS"] = instance_states.Limits(trial=600)
    from attest import cli  # which has the limits from there

    cli.main()


if __name__ == "__main__":
    main()

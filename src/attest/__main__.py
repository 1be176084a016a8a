"""``python -m attest`` is the command `attest`."""

from attest.cli import main

main()

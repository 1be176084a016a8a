"""The limit of file descriptors follows the number of machines."""

from __future__ import annotations

import subprocess
import sys

import pytest

_RESERVE = """
import resource
from attest.errors import HostError
from attest.host.descriptors import reserve_descriptors
try:
    reserve_descriptors({machines})
except HostError as error:
    print(error.message)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "machines", "after"),
    [
        (256, 4096, 4, "256 4096"),  # they are enough
        (256, 4096, 100, "1728 4096"),
        (256, 512, 100, "100 machines need 1728 file descriptors, and this user may have 512"),
    ],
)
def test_the_limit_is_raised_as_far_as_needed(
    soft: int, hard: int, machines: int, after: str
) -> None:
    limited = ["prlimit", f"--nofile={soft}:{hard}", sys.executable, "-c"]
    done = subprocess.run(
        [*limited, _RESERVE.format(machines=machines)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(after)

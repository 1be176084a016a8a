"""What is told of apt's output."""

from __future__ import annotations

from attest.image.apt_progress import AptProgress


def told(output: str) -> list[str]:
    """What is told at once of each line; a pause of seconds tells the rest."""
    lines: list[str] = []
    progress = AptProgress(lines.append, interval=0)
    for line in output.strip().splitlines():
        progress.line(line)
    return lines


def test_bytes_and_packages_are_counted_to_what_is_expected() -> None:
    assert told(
        """
The following NEW packages will be installed:
0 upgraded, 2 newly installed, 0 to remove and 1 not upgraded.
Need to get 1,500 kB/2 MB of archives.
Get:1 http://deb.debian.org/debian bookworm/main amd64 nginx-common all 1.22.1-9 [500 kB]
Get:2 http://deb.debian.org/debian bookworm/main amd64 nginx-light all 1.22.1-9 [1,000 kB]
Unpacking nginx-common (1.22.1-9) ...
Setting up nginx-common (1.22.1-9) ...
Setting up nginx-light (1.22.1-9) ...
Processing triggers for libc-bin (2.36-9+deb12u14) ...
"""
    ) == [
        "downloaded 0.5 of 1.5 MB",
        "downloaded 1.5 of 1.5 MB",
        "installed 1 of 2 packages",
        "installed 2 of 2 packages",
    ]


def test_lists_have_no_size_that_is_known_before() -> None:
    assert told("Get:1 http://deb.debian.org/debian bookworm InRelease [151 kB]") == [
        "downloaded 0.2 MB"
    ]


def test_rounds_add_up_and_one_that_is_told_twice_counts_once() -> None:
    assert told(
        """
0 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.
Setting up base-files (12.4+deb12u15) ...
1 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.
1 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.
Setting up systemd (252.39-1~deb12u2) ...
"""
    ) == ["installed 1 of 1 packages", "installed 2 of 3 packages"]


def test_stages_of_the_bootstrap_are_told() -> None:
    assert told("I: extracting archives...\nI: success in 5.1 seconds") == ["extracting archives"]


def test_not_every_package_is_told() -> None:
    lines: list[str] = []
    progress = AptProgress(lines.append, interval=3600)
    progress.line("0 upgraded, 100 newly installed, 0 to remove and 0 not upgraded.")
    for number in range(100):
        progress.line(f"Setting up package{number} (1.0) ...")
    assert lines == ["installed 100 of 100 packages"]


def test_packages_are_not_counted_to_nothing() -> None:
    assert told("Setting up usr-is-merged (37~deb12u1) ...") == []

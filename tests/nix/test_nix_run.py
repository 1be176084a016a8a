"""`attest nix run`: a flake's test is built once, and evaluated again when it has changed."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from attest.support.paths import cache_dir
from tests.nix.isolated_nix import Nix

FLAKE = """
{
  outputs = _: {
    checks.x.pair.attest =
      let
        file = name: text: derivation {
          inherit name text;
          system = "SYSTEM-linux";
          builder = "/bin/sh";
          args = [ "-c" "echo \\"$text\\" > $out" ];
        };
      in
      builtins.trace "evaluated" {
        manifest = file "pair.json" (builtins.toJSON {
          name = "pair";
          nodes = { one = tiny; two = tiny; };
        });
        script = file "test-script" (builtins.readFile ./test.py);
      };
  };
}
"""
TINY = 'tiny = { image = "tiny"; memory = 96; };\n        file ='
SCRIPT = "start_all()\none.succeed('ping -c 1 two')\nprint('script', 1)\n"


@dataclass(frozen=True)
class Flake:
    """A directory with a flake, and a Nix to build it."""

    path: Path
    nix: Nix

    def run(self, *options: str, test: str = ".#checks.x.pair") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "attest", "nix", "run", test, "--accel", "tcg", *options],
            cwd=self.path, capture_output=True, text=True, check=False,
            env={
                **self.nix.environment,
                "NIX_CONFIG": "sandbox-paths = /bin/sh=/usr/bin/bash-static",
                "XDG_CACHE_HOME": str(self.path / "cache"),
            },
        )  # fmt: skip


@pytest.fixture
def flake(nix: Nix, tmp_path: Path) -> Flake:
    """A flake of a test with two machines, whose images are there."""
    (tmp_path / "flake.nix").write_text(
        FLAKE.replace("SYSTEM", platform.machine()).replace("file =", TINY, 1)
    )
    (tmp_path / "test.py").write_text(SCRIPT)
    (tmp_path / ".gitignore").write_text("cache\n")
    cache = tmp_path / "cache" / "attest"
    cache.mkdir(parents=True)
    (cache / "images").symlink_to(cache_dir() / "images")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    return Flake(tmp_path, nix)


def test_a_test_is_evaluated_once(flake: Flake) -> None:
    first = flake.run()
    assert first.returncode == 0, first.stderr
    assert "evaluated" in first.stderr
    assert "script 1" in first.stdout
    assert "pair: passed" in first.stderr
    second = flake.run()
    assert second.returncode == 0, second.stderr
    assert "evaluated" not in second.stderr
    assert "nothing of the flake has changed" in second.stderr
    assert "script 1" in second.stdout


def test_what_the_flake_reads_is_not_overlooked(flake: Flake) -> None:
    flake.run()
    (flake.path / "test.py").write_text(SCRIPT.replace("'script', 1", "'script', 22"))
    changed = flake.run()
    assert "evaluated" in changed.stderr
    assert "script 22" in changed.stdout


def test_a_script_of_its_own_changes_without_an_evaluation(flake: Flake) -> None:
    script = flake.path / "test.py"
    assert "evaluated" in flake.run("--script", "test.py").stderr
    script.write_text("one.succeed('echo why >&2; exit 3')")
    changed = flake.run("--script", "test.py")
    assert "evaluated" not in changed.stderr
    assert changed.returncode == 1
    assert f"{script}:1" in changed.stderr
    assert "why" in changed.stderr


def test_a_test_that_is_not_attests(flake: Flake) -> None:
    wrong = flake.run(test=".#checks.x.other")
    assert wrong.returncode == 3
    assert "Nix could not build the test" in wrong.stderr
    assert "attest.testModules.attest" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["."], "expected a flake and a test in it"),
        ([".#x", "--script", "absent.py"], "--script: expected a Python file, found absent.py"),
    ],
)
def test_wrong_arguments_are_told(flake: Flake, arguments: list[str], message: str) -> None:
    test, *options = arguments
    wrong = flake.run(*options, test=test)
    assert wrong.returncode == 2
    assert message in wrong.stderr


def test_without_nix(flake: Flake) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "attest", "nix", "run", ".#x"],
        cwd=flake.path, capture_output=True, text=True, check=False,
        env={"PATH": str(flake.path), "XDG_CACHE_HOME": str(flake.path / "cache")},
    )  # fmt: skip
    assert done.returncode == 3
    assert "there is no Nix on PATH" in done.stderr

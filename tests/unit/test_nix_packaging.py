"""Nix's packaging agrees with the project, and its scripts do what they say; no Nix needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from build_programs import build_programs

from attest import __version__

ROOT = Path(__file__).parents[2]
NIX = ROOT / "nix"


def project() -> dict[str, object]:
    loaded: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return loaded


def distributions(requirements: list[str]) -> set[str]:
    """The names of requirements, as nixpkgs has them."""
    return {re.split("[<>=~! ]", each)[0].lower().replace(".", "-") for each in requirements}


def packages(text: str, name: str) -> set[str]:
    """The Python packages of a list in the package's file."""
    (items,) = re.findall(rf"^ *{name} = \[(.*?)\];", text, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"python3Packages\.([\w-]+)", items))


def test_the_nix_package_has_the_project_s_dependencies() -> None:
    declared = project()
    text = (NIX / "package.nix").read_text()
    dependencies, extras = declared["dependencies"], declared["optional-dependencies"]
    assert isinstance(dependencies, list)
    assert isinstance(extras, dict)
    assert packages(text, "dependencies") == distributions(dependencies)
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert packages(text, "build-system") == distributions(build)
    (block,) = re.findall(r"optional-dependencies = \{(.*?)\};", text, re.DOTALL)
    assert {name: packages(block, name) for name in re.findall(r"(\w+) = \[", block)} == {
        name: distributions(each) for name, each in extras.items() if name != "dev"
    }


def patterns(name: str) -> list[re.Pattern[str]]:
    """The patterns of a Nix file: POSIX's, in which a dot is any character, a new line too."""
    quoted = re.findall(r'builtins\.match "((?:[^"\\]|\\.)*)"', (NIX / name).read_text())
    return [re.compile(each.encode().decode("unicode_escape"), re.DOTALL) for each in quoted]


def test_the_nix_packages_find_their_versions() -> None:
    for name, source, version in (
        ("package.nix", "src/attest/__init__.py", __version__),
        ("agent.nix", "agent/src/version.h", "1.0.0"),
    ):
        found = patterns(name)[0].fullmatch((ROOT / source).read_text())
        assert found is not None
        assert found[1] == version


def test_the_nix_packages_take_what_they_are_made_of() -> None:
    taken = {
        name: {
            str(path.relative_to(ROOT))
            for directory in ("agent", "docs", "nix", "src", "tests", "tools", "uffd")
            for path in (*ROOT.glob("*"), *ROOT.glob(f"{directory}/**/*"))
            if patterns(name)[1].fullmatch(str(path.relative_to(ROOT)))
        }
        for name in ("package.nix", "agent.nix")
    }
    assert {path for path in taken["package.nix"] if not path.startswith("src/")} == {
        "LICENSE", "README.md", "hatch_build.py", "pyproject.toml", "src", "tools",
        "tools/build_programs.py",
    }  # fmt: skip
    assert "src/attest/cli/__init__.py" in taken["package.nix"]
    sources = {"agent/Makefile", "agent/bash/fork.c", "agent/src/main.c", "uffd/src/main.c"}
    assert sources <= taken["agent.nix"]
    assert {path.split("/")[1] for path in taken["agent.nix"] if "/" in path} == {
        "Makefile", "bash", "src",
    }  # fmt: skip


def run(
    *command: str | Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def build_phase(name: str) -> str:
    (text,) = re.findall(rf"{name} = ''\n(.*?)'';", (NIX / "agent.nix").read_text(), re.DOTALL)
    return text.replace("${architecture}", os.uname().machine)


@pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("make")), reason="needs gcc and make")
def test_the_phases_of_the_agent_s_package(tmp_path: Path) -> None:
    for directory in ("agent", "uffd"):
        shutil.copytree(
            ROOT / directory, tmp_path / directory, ignore=shutil.ignore_patterns("build")
        )
    phases = "runHook() { :; }\n" + build_phase("buildPhase") + build_phase("installPhase")
    out = tmp_path / "out"
    env = {**os.environ, "CC": "gcc", "out": str(out)}
    done = run("bash", "-euc", f"cd {tmp_path}\n{phases}", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    architecture = os.uname().machine
    assert {path.name for path in (out / "bin").iterdir()} == {
        "attest-agent",
        f"attest-agent-{architecture}",
        f"attest-uffd-{architecture}",
    }
    assert run(out / "bin/attest-agent", "--version").stdout == "attest-agent 1.0.0\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTEST_AGENT_DIR", str(out / "bin"))
        build_programs(tmp_path / "wheel")
    agent = tmp_path / f"wheel/src/attest/guest/agent/bin/attest-agent-{architecture}"
    assert agent.read_bytes() == (out / "bin/attest-agent").read_bytes()


HASH = "0123456789abcdfghijklmnpqrsvwxyz"


def closure(directory: Path, *names: str) -> Path:
    """What closureInfo makes of store paths with these names."""
    directory.mkdir()
    paths = "".join(f"/nix/store/{HASH}-{name}\n" for name in names)
    (directory / "store-paths").write_text(paths)
    (directory / "total-nar-size").write_text(f"{123 << 20}\n")
    return directory


def check_closure(directory: Path) -> subprocess.CompletedProcess[str]:
    """Run the check with the patterns that it has by default."""
    (patterns,) = re.findall(
        r"forbidden \? \[\n(.*?)\n  \]", (NIX / "closure.nix").read_text(), re.DOTALL
    )
    return run("bash", NIX / "closure-check.sh", "web", directory, *re.findall(r'"(.*)"', patterns))


def test_a_closure_is_measured(tmp_path: Path) -> None:
    names = [
        "python3-3.13.13",
        "gcc-15.2.0-lib",
        "xgcc-15.2.0-libgcc",
        "linux-6.1.176",
        "glibc-2.42",
    ]
    done = check_closure(
        closure(tmp_path / "closure", *names, "llvm-21.1.8-lib", "mongo-c-driver-1")
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "web: 123.0 MiB in 7 paths\n"


@pytest.mark.parametrize(
    "name",
    ["linux-6.18.37-dev", "gcc-15.2.0", "gcc-wrapper-15.2.0", "clang-21.1.8", "llvm-21.1.8",
     "rustc-1.96.0", "rustc-wrapper-1.96.0", "go-1.26.1"],
)  # fmt: skip
def test_a_closure_with_what_only_builds_need_is_refused(tmp_path: Path, name: str) -> None:
    done = check_closure(closure(tmp_path / "closure", "python3-3.13.13", name))
    assert done.returncode == 1
    assert done.stdout == "web: 123.0 MiB in 2 paths\n"
    assert f"/nix/store/{HASH}-{name} is not for run time" in done.stderr


STUB = """#!/usr/bin/env bash
# Nix, as far as the script uses it: what it fetches is a clone.
set -eu
[[ "$1 $2" == "--extra-experimental-features nix-command flakes" ]]
shift 2
case "$1 $2" in
    "flake prefetch")
        [[ ! -e "$STUB/offline" ]] || { echo "error: unable to download" >&2; exit 1; }
        from=${4#github:}
        git clone --quiet "https://github.com/${from%/*}" "$STUB/source" >&2
        git -C "$STUB/source" checkout --quiet "${from##*/}"
        echo "{\\"hash\\": \\"sha256-source\\", \\"storePath\\": \\"$STUB/source\\"}" ;;
    "build --no-link")
        cp "$STUB/../nix/firecracker-pin.json.new" "$STUB/asked.json"
        cat "$STUB/says" >&2
        exit 1 ;;
    *) exit 9 ;;
esac
"""
SAYS = """error: hash mismatch in fixed-output derivation '/nix/store/x-vendor-staging.drv':
         specified: sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
            got:    sha256-Y3JhdGVz+/=
"""


class Checkout:
    """A checkout with the script, a fork that stands for one on GitHub, and a stub of Nix."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pin = path / "nix/firecracker-pin.json"
        (path / "nix").mkdir()
        (path / "scripts").mkdir()
        shutil.copy(ROOT / "scripts/update-firecracker.sh", path / "scripts")
        self.stub = path / "stub"
        self.stub.mkdir()
        (self.stub / "nix").write_text(STUB)
        (self.stub / "nix").chmod(0o755)
        (self.stub / "says").write_text(SAYS)
        self.env = {
            "PATH": f"{self.stub}:{os.environ['PATH']}",
            "HOME": str(path),
            "STUB": str(self.stub),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{path}/github/.insteadOf",
            "GIT_CONFIG_VALUE_0": "https://github.com/",
        }
        self.fork = path / "github/alice/firecracker"
        self.fork.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.first = self.commit("1.16.0")
        self.git("tag", "--annotate", "--message=1.16", "v1.16.0")
        self.second = self.commit("1.17.0-dev")

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=alice", "-c", "user.email=alice@localhost"]
        done = run("git", "-C", self.fork, *who, *arguments, env=self.env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, version: str) -> str:
        manifest = self.fork / "src/firecracker/Cargo.toml"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(f'[package]\nname = "firecracker"\nversion = "{version}"\n')
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", version)
        return self.git("rev-parse", "HEAD")

    def update(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        shutil.rmtree(self.stub / "source", ignore_errors=True)
        script = self.path / "scripts/update-firecracker.sh"
        done = run("bash", script, *arguments, env=self.env)
        assert not Path(f"{self.pin}.new").exists()
        return done


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    if not shutil.which("jq"):
        pytest.skip("needs jq")
    return Checkout(tmp_path)


def test_a_firecracker_is_pinned_and_pinned_anew(checkout: Checkout) -> None:
    done = checkout.update("--tag", "v1.16.0", "alice/firecracker")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (f"Firecracker: none -> alice/firecracker {checkout.first} (1.16.0)\n")
    pinned = {
        "owner": "alice", "repo": "firecracker", "rev": checkout.first, "version": "1.16.0",
        "hash": "sha256-source", "cargoHash": "sha256-Y3JhdGVz+/=",
    }  # fmt: skip
    assert json.loads(checkout.pin.read_text()) == pinned
    # Nix was asked with everything but the hash that it is to say.
    fake = "sha256-" + 43 * "A" + "="
    assert json.loads((checkout.stub / "asked.json").read_text()) == pinned | {"cargoHash": fake}
    done = checkout.update()
    assert done.stdout == (
        f"Firecracker: alice/firecracker {checkout.first} (1.16.0) -> "
        f"alice/firecracker {checkout.second} (1.17.0-dev)\n"
    )
    for revision in (checkout.first, "main"):
        assert checkout.update("--rev", revision).returncode == 0
        wanted = checkout.second if revision == "main" else revision
        assert json.loads(checkout.pin.read_text())["rev"] == wanted


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--tag"], 2, "--tag needs a value"),
        (["--rev", "a", "--tag", "b"], 2, "a revision and a tag are two"),
        (["firecracker"], 2, "what is firecracker?"),
        (["https://github.com/alice/firecracker"], 2, "is no OWNER/REPO"),
        (["--tag", "v9", "alice/firecracker"], 1, "has no refs/tags/v9"),
        (["--rev", "0123456", "alice/firecracker"], 1, "named by all its 40 digits"),
        (["bob/firecracker"], 1, "cannot ask https://github.com/bob/firecracker"),
    ],
)
def test_a_wrong_update_is_refused(
    checkout: Checkout, arguments: list[str], status: int, message: str
) -> None:
    done = checkout.update(*arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert not checkout.pin.exists()


def test_an_update_that_fails_leaves_the_pin(checkout: Checkout) -> None:
    assert checkout.update("--tag", "v1.16.0", "alice/firecracker").returncode == 0
    pinned = checkout.pin.read_bytes()
    (checkout.stub / "says").write_text("error: unable to download crates\n")
    done = checkout.update()
    assert done.returncode == 1
    assert "unable to download crates" in done.stderr
    assert "has not told the hash of the crates" in done.stderr
    (checkout.stub / "offline").touch()
    done = checkout.update()
    assert done.returncode == 1
    assert "cannot fetch https://github.com/alice/firecracker" in done.stderr
    (checkout.stub / "offline").unlink()
    shutil.rmtree(checkout.fork / "src")
    checkout.git("commit", "--all", "--quiet", "--message=other")
    done = checkout.update()
    assert "is no Firecracker" in done.stderr
    checkout.env["PATH"] = str(checkout.path / "few")
    (checkout.path / "few").mkdir()
    for tool in ("bash", "dirname", "git", "jq"):
        found = shutil.which(tool)
        assert found is not None
        (checkout.path / "few" / tool).symlink_to(found)
    done = checkout.update()
    assert "nix is missing" in done.stderr
    assert checkout.pin.read_bytes() == pinned


@pytest.mark.parametrize("script", ["nix/closure-check.sh", "scripts/update-firecracker.sh"])
def test_the_scripts_have_no_known_mistakes(script: str) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("needs shellcheck")
    done = run("shellcheck", ROOT / script)
    assert done.returncode == 0, done.stdout


def test_the_scripts_are_programs() -> None:
    for script in ("nix/closure-check.sh", "scripts/update-firecracker.sh"):
        assert os.access(ROOT / script, os.X_OK)

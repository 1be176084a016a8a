"""What a real nixpkgs, given by ``ATTEST_NIXPKGS=DIR``, makes of attest's packages; not built."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from attest import __version__

ROOT = Path(__file__).parents[2]
NIX = ROOT / "nix"
NIXPKGS = os.environ.get("ATTEST_NIXPKGS", "")

if not (NIXPKGS and shutil.which("nix-instantiate")):
    pytest.skip(
        "evaluates a nixpkgs: give its directory by ATTEST_NIXPKGS, and install nix-bin",
        allow_module_level=True,
    )

PIN = {
    "owner": "alice", "repo": "firecracker", "rev": 40 * "a", "version": "1.16.0",
    "hash": f"sha256-{43 * 'B'}=", "cargoHash": f"sha256-{43 * 'C'}=",
}  # fmt: skip


class Evaluator:
    """Nix with a store of its own, which needs neither root nor a daemon."""

    def __init__(self, path: Path) -> None:
        self.store = path / "root/nix/store"
        (path / "nix.conf").write_text("substituters =\nbuild-users-group =\n")
        self.env = {
            **os.environ, "NIX_REMOTE": f"local?root={path}/root", "NIX_CONF_DIR": str(path),
        }  # fmt: skip

    def _run(self, *options: str, expression: str) -> subprocess.CompletedProcess[str]:
        expression = f"""
            let
              pkgs = import {NIXPKGS}/pkgs/top-level/impure.nix {{
                system = "x86_64-linux"; config = {{ }}; overlays = [ ];
              }};
              inherit (pkgs) lib;
              attest = pkgs.callPackage {NIX}/package.nix {{ }};
              firecracker = pkgs.callPackage {NIX}/firecracker.nix {{ }};
            in
            {expression}"""
        return subprocess.run(
            ["nix-instantiate", *options, "--option", "allow-import-from-derivation", "false",
             "-E", expression],
            env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def value(self, expression: str) -> Any:
        done = self._run("--eval", "--strict", "--json", expression=expression)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def error(self, expression: str) -> str:
        done = self._run("--eval", "--strict", expression=expression)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def tree(self, source: str) -> set[str]:
        """The files of a source, which is copied to the store."""
        expression = f"""
            derivation {{ name = "s"; builder = "s"; system = "s"; source = {source}; }}"""
        derivation = self._run(expression=expression).stdout.strip()
        text = (self.store / Path(derivation).name).read_text()
        name = text.partition('("source","/nix/store/')[2].partition('"')[0]
        root = self.store / name
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    return Evaluator(tmp_path_factory.mktemp("nix"))


def test_the_package(nix: Evaluator) -> None:
    made = nix.value("""{
        inherit (attest) name drvPath;
        inherit (attest.meta) mainProgram platforms;
        agent = [ attest.env.ATTEST_AGENT_DIR attest.agent.outPath ];
        path = lib.last attest.makeWrapperArgs;
    }""")
    assert made["name"] == f"attest-{__version__}"
    assert made["mainProgram"] == "attest"
    assert made["agent"][0] == f"{made['agent'][1]}/bin"
    names = [directory.split("-", 1)[1] for directory in made["path"].split(":")]
    assert [name.split("-")[0] for name in names] == ["bash", "coreutils", "iproute2", "util"]
    assert "interactive" not in made["path"]


def test_more_programs_are_found_before_the_package_s(nix: Evaluator) -> None:
    path = nix.value("""
        lib.last (attest.override { extraPackages = [ pkgs.qemu_test ]; }).makeWrapperArgs""")
    assert "-qemu-" in path.split(":")[0]


def test_nixpkgs_has_what_the_project_requires(nix: Evaluator) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = nix.value("""
        lib.listToAttrs (map (each: lib.nameValuePair each.pname each.version)
          (attest.dependencies ++ lib.concatLists (lib.attrValues attest.optional-dependencies))
        )""")
    extras = [each for name, each in project["optional-dependencies"].items() if name != "dev"]
    for requirement in map(Requirement, chain(project["dependencies"], *extras)):
        version = versions.get(requirement.name) or versions[requirement.name.replace(".", "-")]
        assert requirement.specifier.contains(version), requirement


def test_the_package_is_made_of_sources_alone(nix: Evaluator) -> None:
    files = nix.tree("attest.src")
    assert {name for name in files if not name.startswith("src/attest/")} == {
        "LICENSE", "README.md", "hatch_build.py", "pyproject.toml", "tools/build_programs.py",
    }  # fmt: skip
    assert {"src/attest/__init__.py", "src/attest/image/recipes/tiny.toml"} <= files
    assert not [name for name in files if "/bin/" in name or name.endswith(".pyc")]
    agent = nix.tree("attest.agent.src")
    assert {"agent/Makefile", "agent/bash/fork.c", "agent/src/main.c", "uffd/src/main.c"} <= agent
    assert not [name for name in agent if "/build/" in name]


def test_the_programs_are_static_ones_of_the_guest_s_architecture(nix: Evaluator) -> None:
    for packages, architecture in (
        ("pkgs.pkgsStatic", "x86_64"),
        ("pkgs.pkgsCross.aarch64-multiplatform.pkgsStatic", "aarch64"),
    ):
        made = nix.value(f"""
            let agent = {packages}.callPackage {NIX}/agent.nix {{ }};
            in {{
              inherit (agent) buildPhase drvPath;
              host = agent.stdenv.hostPlatform.config;
            }}""")
        assert made["host"] == f"{architecture}-unknown-linux-musl"
        assert f"build/attest-$program-{architecture}" in made["buildPhase"]


def test_firecracker_is_nixpkgs_unless_asked_for_another(nix: Evaluator, tmp_path: Path) -> None:
    none = tmp_path / "none.json"
    assert nix.value(f'(firecracker {{ pin = "{none}"; }}).drvPath == pkgs.firecracker.drvPath')


def test_a_firecracker_of_a_flake_s_input(nix: Evaluator, tmp_path: Path) -> None:
    manifest = tmp_path / "src/firecracker/Cargo.toml"
    manifest.parent.mkdir(parents=True)
    manifest.write_text('[package]\nversion = "1.17.0-dev"\n')
    made = nix.value(f"""
        let made = firecracker {{ src = {tmp_path}; cargoHash = lib.fakeHash; }};
        in {{
          inherit (made) name drvPath;
          crates = made.cargoDeps.vendorStaging.outputHash;
          sources = [ made.src made.cargoDeps.vendorStaging.src ];
        }}""")
    assert made["name"] == "firecracker-1.17.0-dev"
    assert made["crates"] == f"sha256-{43 * 'A'}="
    assert len(set(made["sources"])) == 1


def test_a_pinned_firecracker(nix: Evaluator, tmp_path: Path) -> None:
    pin = tmp_path / "pin.json"
    pin.write_text(json.dumps(PIN))
    made = nix.value(f"""
        let made = firecracker {{ pin = "{pin}"; }};
        in {{
          inherit (made) version drvPath;
          inherit (made.src) rev owner outputHash;
          crates = made.cargoDeps.vendorStaging.outputHash;
        }}""")
    del made["drvPath"]
    assert made == {
        "version": PIN["version"], "rev": PIN["rev"], "owner": PIN["owner"],
        "outputHash": PIN["hash"], "crates": PIN["cargoHash"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("src = ./.;", "`src` needs `cargoHash`: give lib.fakeHash"),
        ("src = pkgs.firecracker.src; cargoHash = lib.fakeHash;", "so give `version` too"),
        ("src = ./.; cargoHash = lib.fakeHash;", "`src` is no Firecracker"),
        ("cargoHash = lib.fakeHash;", "describe `src`, which was not given"),
        ('version = "1";', "describe `src`, which was not given"),
        ('hash = "";', "unexpected argument 'hash'"),
    ],
)
def test_a_wrong_firecracker_is_refused(nix: Evaluator, arguments: str, message: str) -> None:
    found = nix.error(f"(firecracker {{ {arguments} }}).drvPath")
    assert message in found.replace("called with ", "")


def test_a_closure_s_check(nix: Evaluator) -> None:
    made = nix.value(f"""
        let closure = pkgs.callPackage {NIX}/closure.nix {{ }};
            check = closure {{ name = "web"; roots = [ attest ]; }};
        in {{ inherit (check) name drvPath forbidden buildCommand; }}""")
    assert made["name"] == "closure-web"
    assert "linux-*-dev" in made["forbidden"]
    assert "-closure-check.sh web" in made["buildCommand"]

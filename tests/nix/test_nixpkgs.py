"""What attest's Nix files make of real tests of a real nixpkgs, given by ``ATTEST_NIXPKGS=DIR``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.nix.isolated_nix import ROOT, Evaluation, Nix

if "ATTEST_NIXPKGS" not in os.environ:
    pytest.skip(
        "evaluates a whole nixpkgs: give its directory by ATTEST_NIXPKGS", allow_module_level=True
    )

PREAMBLE = f"""
    let
      pkgs = import {os.environ.get("ATTEST_NIXPKGS", "")}/pkgs/top-level/impure.nix {{
        config = {{ }};
        overlays = [ ];
      }};
      module = name: import {ROOT}/nix/modules/test.nix name;
      switch = module: test: test.extend {{ modules = [ module ]; }};
      run = modules: nodes: pkgs.testers.runNixOSTest {{
        imports = modules; name = "x"; inherit nodes; testScript = "start_all()";
      }};
      web = {{ services.nginx.enable = true; }};
      named = name: {{ services.nginx = {{ enable = true; virtualHosts.${{name}} = {{ }}; }}; }};
    in
"""
TESTS = [
    "bind", "bittorrent", "chrony", "docker", "fail2ban", "ferm", "firewall", "haproxy", "login",
    "memcached", "mosquitto", "nginx", "openssh", "prosody", "samba", "syncthing",
    "systemd-networkd",
]  # fmt: skip
"""Tests of nixpkgs, of one to six machines, as they are."""


def thunks(nix: Nix, expression: str) -> int:
    """What it takes to evaluate a test's derivation."""
    found = evaluate(nix, f"({expression}).drvPath")
    assert found.made.endswith(".drv")
    return found.thunks


def evaluate(nix: Nix, expression: str) -> Evaluation:
    return nix.evaluate(PREAMBLE + expression)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("test", TESTS)
def test_a_test_of_nixpkgs_is_switched(nix: Nix, test: str) -> None:
    theirs = thunks(nix, f"pkgs.nixosTests.{test}")
    driver = thunks(nix, f"switch {ROOT}/nix/modules/driver.nix pkgs.nixosTests.{test}")
    machines = thunks(nix, f'switch (module "firecracker") pkgs.nixosTests.{test}')
    print(f"{test}: {theirs} thunks; attest's driver {driver}, on Firecracker {machines}")
    assert driver < 1.02 * theirs
    assert machines < 1.02 * theirs


def test_replicas_cost_nothing(nix: Nix) -> None:
    one = thunks(nix, 'run [ (module "firecracker") ] { a = web; }')
    four = thunks(nix, 'run [ (module "firecracker") { attest.replicas.a = 4; } ] { a = web; }')
    assert four < 1.2 * one


def test_nodes_that_differ_cost_what_they_cost_nixpkgs(nix: Nix) -> None:
    nodes = '{ a = named "a"; b = named "b"; c = named "c"; d = named "d"; }'
    assert thunks(nix, f'run [ (module "qemu") ] {nodes}') < 1.02 * thunks(nix, f"run [ ] {nodes}")


def test_equal_nodes_are_one_guest(nix: Nix) -> None:
    written = evaluate(
        nix,
        """
        let
          test = run [ (module "qemu") ] { a = web; b = web; c = named "c"; d = { networking.hostName = "e"; }; };
        in
        builtins.fromJSON (builtins.unsafeDiscardStringContext test.config.attest.manifest.text)
        """,  # noqa: E501
    ).made
    images = {name: node["image"] for name, node in written["nodes"].items()}
    assert images["a"] == images["b"]
    assert len(set(images.values())) == 3
    own = {name for name, node in written["nodes"].items() if node["own_identity"]}
    assert own == {"d"}


def test_the_initrd_makes_the_store_of_its_image(nix: Nix) -> None:
    both = evaluate(
        nix,
        """
        let
          test = run [ (module "firecracker") ] { a = { }; b.virtualisation.writableStore = false; };
          mounts = node: builtins.mapAttrs (_: each: { inherit (each) device fsType options; }) node.fileSystems;
        in
        map mounts [ test.nodes.a test.nodes.b ]
        """,  # noqa: E501
    ).made
    writable, read_only = both
    for mounts in both:
        assert mounts["/nix/.ro-store"]["device"] == "/dev/disk/by-label/nix-store"
        assert mounts["/nix/.ro-store"]["fsType"] == "erofs"
        assert mounts["/"]["device"] == "/dev/disk/by-label/attest-root"
        assert mounts["/"]["fsType"] == "ext4"
        assert all("x-initrd.mount" in mount["options"] for mount in mounts.values())
    assert "lowerdir=/sysroot/nix/.ro-store" in writable["/nix/store"]["options"]
    assert writable["/nix/.rw-store"]["fsType"] == "tmpfs"
    assert read_only["/nix/store"]["device"] == "/nix/.ro-store"
    assert "bind" in read_only["/nix/store"]["options"]


def test_a_guest_has_its_architecture_s_name_as_uname_has_it(nix: Nix) -> None:
    made = evaluate(
        nix,
        f"""
        let
          on = system: import {ROOT}/nix/make-test.nix {{
            pkgs = import (pkgs.path + "/pkgs/top-level/impure.nix") {{ inherit system; }};
            name = "x"; nodes.a = {{ }}; testScript = "";
          }};
          arch = system: (on system).nodes.a.system.build.attestGuest.arch;
        in
        [ (arch "x86_64-linux") (arch "aarch64-linux") ]
        """,
    ).made
    assert made == ["x86_64", "aarch64"]


def test_a_unit_for_addresses_is_there_and_sets_none(nix: Nix) -> None:
    unit = evaluate(
        nix,
        """
        let
          unit = (run [ (module "qemu") ] { a = { }; }).nodes.a.systemd.services.network-addresses-eth1;
        in
        { inherit (unit) enable script preStop; }
        """,  # noqa: E501
    ).made
    assert unit == {"enable": True, "script": ":", "preStop": ""}


def test_the_builds_have_the_qemu_of_the_test(nix: Nix) -> None:
    made = evaluate(
        nix,
        """
        let test = run [ (module "qemu") ] { a = { }; }; in
        [
          (builtins.elem pkgs.qemu_test test.config.attest.snapshots.nativeBuildInputs)
          (builtins.length (builtins.split "${pkgs.qemu_test.pname}" (builtins.unsafeDiscardStringContext test.driver.buildCommand)) > 1)
        ]
        """,  # noqa: E501
    ).made
    assert made == [True, True]


def test_a_script_that_makes_its_machines_itself_has_a_driver(nix: Nix) -> None:
    command = evaluate(nix, f"(run [ {ROOT}/nix/modules/driver.nix ] {{ }}).driver.buildCommand")
    assert "--add-flags '--config /" in command.made
    assert "--nodes= " in command.made


@pytest.mark.parametrize(
    ("node", "named"),
    [
        ("{ virtualisation.useEFIBoot = true; }", "virtualisation.useEFIBoot"),
        ('{ virtualisation.qemu.options = [ "-cpu max" ]; }', "virtualisation.qemu.options"),
        (
            '{ virtualisation.sharedDirectories.x = { source = "/x"; target = "/x"; }; }',
            "virtualisation.sharedDirectories",
        ),
        (
            '{ virtualisation.qemu.drives = [ { name = "x"; file = "/x"; } ]; }',
            "virtualisation.qemu.drives",
        ),
        (
            "{ testing.initrdBackdoor = true; boot.initrd.systemd.enable = true; }",
            "testing.initrdBackdoor",
        ),
    ],
)
def test_what_a_microvm_cannot_serve_is_refused(nix: Nix, node: str, named: str) -> None:
    said = evaluate(nix, f'(run [ (module "qemu") ] {{ web = {node}; }}).drvPath')
    assert said.value is None
    assert f"nodes.web: {named}" in said.log
    assert "testModules.qemu" in said.log


def test_the_flake_evaluates(nix: Nix) -> None:
    nixpkgs = Path(os.environ["ATTEST_NIXPKGS"])
    made = evaluate(
        nix,
        f"""
        let
          outputs = (import {ROOT}/flake.nix).outputs {{
            self = outputs;
            nixpkgs = {{ lib = import {nixpkgs}/lib; legacyPackages.x86_64-linux = pkgs; legacyPackages.aarch64-linux = pkgs; }};
          }};
        in
        builtins.mapAttrs (_: each: each.drvPath) (
          outputs.packages.x86_64-linux // outputs.checks.x86_64-linux // outputs.devShells.x86_64-linux
        )
        """,  # noqa: E501
    ).made
    assert all(path.endswith(".drv") for path in made.values())

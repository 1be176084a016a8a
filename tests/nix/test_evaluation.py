"""What attest's Nix files make of tests, on a package set of nothing: manifests, and messages."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from attest.manifest import parse_manifest
from tests.nix.isolated_nix import HERE, ROOT, Nix

FILES = [ROOT / "flake.nix", *sorted((ROOT / "nix").rglob("*.nix"))]
PACKAGES = f'import {HERE}/stub/pkgs.nix {{ system = "x86_64-linux"; }}'
PAIR = 'nodes = { web.services.nginx.enable = true; client = { }; }; testScript = "";'


def manifest(nix: Nix, arguments: str, of: str = "") -> dict[str, Any]:
    """The manifest of a test by `makeTest`, whose machines attest takes."""
    written = nix.evaluate(f"""
        let
          pkgs = {PACKAGES};
          test = import {ROOT}/nix/make-test.nix {{ inherit pkgs; name = "pair"; {arguments} }};
        in
        builtins.fromJSON (builtins.unsafeDiscardStringContext test.config.attest.manifest.text)
    """).made
    parse_manifest(written, source=of)
    assert isinstance(written, dict)
    return written


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_can_be_parsed(nix: Nix, path: Path) -> None:
    subprocess.run(["nix-instantiate", "--parse", path], check=True, stdout=subprocess.DEVNULL)


def test_a_manifest_has_what_its_test_says(nix: Nix) -> None:
    made = manifest(
        nix,
        """
        nodes.web = { virtualisation.vlans = [ 2 1 ]; virtualisation.emptyDiskImages = [ 512 { size = 64; } ]; };
        nodes.client = { };
        testScript = "";
        memory = 512; vcpus = 2; hugePages = true; vmm = "cloud-hypervisor";
        """,  # noqa: E501
    )
    web, client = made["nodes"]["web"], made["nodes"]["client"]
    assert [web["vlans"], client["vlans"]] == [[2, 1], [1]]
    assert web["disks"] == [{"size": 512}, {"size": 64}]
    assert (web["memory"], web["vcpus"], web["hugepages"]) == (512, 2, True)
    assert [client["number"], web["number"]] == [1, 2]
    assert web["vmm"] == "cloud-hypervisor"
    assert made["cloud_hypervisor"].endswith("-cloud-hypervisor/bin/cloud-hypervisor")
    assert "firecracker" not in made


def test_nodes_that_differ_by_who_they_are_alone_are_one_guest(nix: Nix) -> None:
    web = "services.nginx.enable = true;"
    made = manifest(
        nix, f'nodes = {{ a = {{ {web} }}; b = {{ {web} }}; c = {{ }}; }}; testScript = "";'
    )
    images = {name: node["image"] for name, node in made["nodes"].items()}
    assert images["a"] == images["b"] != images["c"]
    assert not any(node["own_identity"] for node in made["nodes"].values())


@pytest.mark.parametrize(
    "own",
    [
        'networking.hostName = "www";',
        'networking.domain = "test";',
        "networking.useNetworkd = true;",
        "virtualisation.interfaces.lan.vlan = 3;",
        "networking.interfaces = { };",
        'networking.defaultGateway = "192.168.1.1";',
        'networking.interfaces.eth1 = { ipv4.addresses = [ { address = "10.0.0.1"; } ]; ipv6.addresses = [ ]; };',  # noqa: E501
        "attest.bakeIdentity = true;",
    ],
)
def test_a_node_that_says_who_it_is_keeps_it(nix: Nix, own: str) -> None:
    made = manifest(nix, f'nodes = {{ a = {{ }}; b = {{ {own} }}; }}; testScript = "";')
    a, b = made["nodes"]["a"], made["nodes"]["b"]
    assert a["image"] != b["image"]
    assert [a["own_identity"], b["own_identity"]] == [False, True]
    assert [a["ipv6"], b["ipv6"]] == [True, False]


def test_replicas_are_machines_of_one_node(nix: Nix) -> None:
    made = manifest(nix, f"{PAIR} replicas.web = 3;")
    numbers = {name: node["number"] for name, node in made["nodes"].items()}
    assert numbers == {"client": 1, "web1": 2, "web2": 3, "web3": 4}
    assert len({made["nodes"][name]["image"] for name in ("web1", "web2", "web3")}) == 1


def test_a_guest_is_described(nix: Nix) -> None:
    made = nix.evaluate(f"""
        builtins.fromJSON (builtins.toJSON ((import {ROOT}/nix/machine.nix).description {{
          arch = "x86_64"; toplevel = "/nix/store/system"; registration = "/nix/store/info/registration";
          kernelParams = [ "clocksource=acpi_pm" "panic=1" "console=tty0" ];
          kernel = "/k"; initrd = "/i"; root = "/r"; kernelVersion = "6.12.1"; onDisk = true;
        }}))
    """).made  # noqa: E501
    assert made["cmdline"] == [
        "panic=1", "init=/nix/store/system/init", "regInfo=/nix/store/info/registration",
    ]  # fmt: skip
    assert (made["own_initrd"], made["root_label"]) == (True, "attest-root")
    assert made["kernel"] == made["vmlinux"] == "/k"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("useEFIBoot = true;", "virtualisation.useEFIBoot"),
        ("useBootLoader = true;", "virtualisation.useBootLoader"),
        ("directBoot.enable = false;", "virtualisation.directBoot.enable"),
        ("tpm.enable = true;", "virtualisation.tpm.enable"),
        ("credentials.x = { };", "virtualisation.credentials"),
        ("useDefaultFilesystems = false;", "virtualisation.useDefaultFilesystems"),
        ("sharedDirectories.x = { };", "virtualisation.sharedDirectories"),
        ("forwardPorts = [ { } ];", "virtualisation.forwardPorts"),
        (
            'emptyDiskImages = [ { size = 1; driveConfig.deviceExtraOpts.serial = "x"; } ];',
            "virtualisation.emptyDiskImages.*.driveConfig",
        ),
        ("vlans = [ 1 300 ];", "virtualisation.vlans"),
        ("vlans = [ 1 1 ];", "virtualisation.vlans"),
    ],
)
def test_what_a_microvm_cannot_serve_is_named(nix: Nix, options: str, named: str) -> None:
    assertions = f"(import {ROOT}/nix/machine.nix).assertions"
    (found,) = nix.evaluate(f'{assertions} "web" ({{ vlans = [ ]; }} // {{ {options} }})').made
    assert found["assertion"] is False
    assert found["message"].startswith(f"nodes.web: {named}: ")
    assert "testModules.qemu" in found["message"]


def test_a_plain_node_is_served(nix: Nix) -> None:
    plain = "{ vlans = [ 1 2 ]; emptyDiskImages = [ 5 { size = 6; driveConfig = { }; } ]; }"
    assert nix.evaluate(f'(import {ROOT}/nix/machine.nix).assertions "a" {plain}').made == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("name = 3;", "name: expected letters, digits, `.`, `_` and `-`, found 3"),
        ("nodes = { };", "nodes: expected a set with a NixOS module for each machine"),
        ("testScript = 5;", "testScript: expected a string, a path, or a function"),
        ('vmm = "xen";', 'vmm: expected one of qemu, firecracker, cloud-hypervisor, found "xen"'),
        ("memory = 8;", "memory: expected MiB, at least 32, found 8"),
        ('vcpus = "2";', 'vcpus: expected a number from 1 to 64, found "2"'),
        ("vlans = [ 0 ];", "vlans: expected a list of numbers from 1 to 254, found [0]"),
        ("warm = 1;", "warm: expected true or false, found 1"),
        ("hugePages = null;", "hugePages: expected true or false, found null"),
        ("splitStore = { };", "splitStore: expected true or false, found a set"),
        ("entropy = 0;", "entropy: expected true or false, found 0"),
        ("kernelPackages = 6;", "kernelPackages: expected a set such as pkgs.linuxPackages_6_1"),
        ('firecrackerPackage = "fc";', "firecrackerPackage: expected a package, found \"fc\""),
        ("replicas.web = 0;", "replicas: expected a set of nodes' names"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_told(nix: Nix, argument: str, message: str) -> None:
    key = re.split(r"[ .]", argument)[0]
    right = {
        "name": 'name = "pair";',
        "nodes": "nodes.web = { };",
        "testScript": 'testScript = "";',
        "vmm": 'vmm = "firecracker";',
    }
    rest = " ".join(text for name, text in right.items() if name != key)
    said = nix.evaluate(f"""
        let test = import {ROOT}/nix/make-test.nix {{ pkgs = {PACKAGES}; {rest} {argument} }};
        in builtins.deepSeq [ test.config.attest.manifest.text test.drvPath test.config.nodes.web.attest.entropy ] true
    """)  # noqa: E501
    assert said.value is None
    assert f"makeTest: {message}" in said.log


def test_an_unknown_argument_is_named(nix: Nix) -> None:
    said = nix.evaluate(f"import {ROOT}/nix/make-test.nix {{ pkgs = {PACKAGES}; memSize = 1; }}")
    assert "memSize" in said.log
    assert said.value is None


def test_replicas_of_what_is_no_node(nix: Nix) -> None:
    said = nix.evaluate(f"""
        (import {ROOT}/nix/machine.nix).machines {{ nodes = {{ a = {{ }}; }}; replicas.b = 2; }}
    """)
    assert "attest.replicas.b: there is no such node; there are: a" in said.log


def test_replicas_that_are_called_as_a_node_is(nix: Nix) -> None:
    said = nix.evaluate(f"""
        (import {ROOT}/nix/machine.nix).machines {{
          nodes = {{ a = {{ }}; a2 = {{ }}; }}; replicas.a = 2;
        }}
    """)
    assert "a replica would be called a2, as a node is" in said.log


def test_firecracker_has_a_kernel_that_survives_its_snapshots(nix: Nix) -> None:
    def kernel(arguments: str) -> tuple[list[Any], str]:
        said = nix.evaluate(f"""
            let
              pkgs = {PACKAGES};
              test = import {ROOT}/nix/make-test.nix {{
                inherit pkgs; name = "x"; nodes.a = {{ }}; testScript = ""; {arguments}
              }};
            in
            builtins.seq test.drvPath [
              test.config.nodes.a.boot.kernelPackages.kernel.version
              (test.config.attest.snapshots != null)
            ]
        """)
        return said.made, said.log

    assert kernel('vmm = "firecracker";')[0] == ["6.1.9", True]
    assert kernel('vmm = "firecracker"; warm = false;')[0] == ["6.18.1", False]
    assert kernel("")[0] == ["6.18.1", True]
    found, log = kernel('vmm = "firecracker"; kernelPackages = pkgs.linuxPackages_6_18;')
    assert found == ["6.18.1", False]
    assert "a: guests with kernel 6.18 or later do not survive a snapshot of Firecracker 1.0" in log


def test_a_node_without_ipv6_is_given_none(nix: Nix) -> None:
    made = manifest(nix, 'nodes.a.networking.enableIPv6 = false; testScript = "";')
    assert made["nodes"]["a"]["ipv6"] is False
    assert made["nodes"]["a"]["own_identity"] is False


def test_the_flake_has_its_outputs(nix: Nix) -> None:
    made = nix.evaluate(f"""
        let
          pkgs = {PACKAGES};
          outputs = (import {ROOT}/flake.nix).outputs {{
            self = outputs;
            nixpkgs = {{ inherit (pkgs) lib; legacyPackages = {{ x86_64-linux = pkgs; aarch64-linux = pkgs; }}; }};
          }};
          names = builtins.attrNames;
        in
        {{
          all = names outputs;
          packages = builtins.mapAttrs (_: each: each.drvPath) outputs.packages.x86_64-linux;
          modules = names outputs.testModules;
          makeTest = (outputs.lib.makeTest {{ inherit pkgs; name = "x"; {PAIR} }}).drvPath;
          checks = builtins.mapAttrs (_: each: each.drvPath) outputs.checks.x86_64-linux;
          bench = builtins.mapAttrs (_: each: each.drvPath) outputs.bench.x86_64-linux;
          formatter = outputs.formatter.x86_64-linux.name;
          shell = outputs.devShells.x86_64-linux.default.drvPath;
          guest = builtins.pathExists outputs.nixosModules.guest;
        }}
    """).made  # noqa: E501
    assert made["all"] == [
        "bench", "checks", "devShells", "formatter", "lib", "nixosModules", "packages",
        "testModules",
    ]  # fmt: skip
    assert set(made["packages"]) == {"agent", "attest", "default"}
    assert made["modules"] == ["attest", "cloudHypervisor", "firecracker", "qemu"]
    assert {"one", "four", "pair", "switched", "closure-one", "closure-four"} <= set(made["checks"])
    assert made["guest"]

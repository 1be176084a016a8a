"""What a test declares: nodes, networks, script and time limits, in TOML or JSON.

`load_manifest` reads a file, `parse_manifest` takes what was read. Both raise `ManifestError` that
names the file and the path in it, such as ``nodes.web.memory``.

What is written may have ``defaults`` for its nodes, ranges of names, and units. A
`Manifest` has none of that: each node is there under its own name, and complete.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

from attest.errors import ManifestError
from attest.support.durations import DURATION_PATTERN, written_seconds
from attest.support.name_ranges import expand_range
from attest.support.script_names import global_name, taken
from attest.support.sizes import SIZE_PATTERN, mebibytes
from attest.support.validation import check_keys, convert, kind_of, read_text, unreadable

__all__ = [
    "Accelerator",
    "Disk",
    "Manifest",
    "Node",
    "VmmName",
    "check_names",
    "decode_document",
    "json_schema",
    "load_manifest",
    "names_script",
    "on_hugepages",
    "parse_manifest",
    "vlans_in",
]

_NODE_NAME = r"^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$"
_LOOPBACK: Final = ("localhost", "ip6-localhost", "ip6-loopback")
"""Names that each guest's ``/etc/hosts`` has for itself."""

_YEAR = 365 * 86_400
"""Seconds; the longest time limit, as clocks do not take just any number."""

NO_LIMIT = float(_YEAR)
"""The seconds that stand for no time limit."""

MAX_NODES = 250
"""Addresses ``192.168.<vlan>.1`` to ``.250``; the rest is left for the host and broadcasts."""

_SCRIPTED_KEYS = ("start_command", "vlans", "ready_unit", "start_timeout")
"""Keys of a node that make sense with a start script."""

VmmName = Literal["auto", "qemu", "firecracker", "cloud-hypervisor"]
"""A VMM, or ``auto`` for the one that starts machines the fastest, of those that are here and can.
"""

Accelerator = Literal["auto", "kvm", "tcg"]
"""KVM, software emulation, or KVM where it has been seen to work."""

Vlan = Annotated[int, msgspec.Meta(ge=1, le=254, description="a network's number")]


class Disk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A disk of a node: empty, or with the content of an image that stays as it is."""

    size: (
        Annotated[int, msgspec.Meta(ge=1, le=1 << 24, description="in MiB, for an empty disk")]
        | None
    ) = None
    image: Annotated[
        str | None, msgspec.Meta(description="path of an image, qcow2 or raw, that it begins as")
    ] = None


class Node(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One machine of the test."""

    start_command: Annotated[
        str,
        msgspec.Meta(
            description="path of a script that starts it, such as NixOS's run-NAME-vm; then there "
            "is no image, and its agent is the backdoor shell of NixOS's test guests"
        ),
    ] = ""
    image: Annotated[
        str,
        msgspec.Meta(
            description="a built-in image (tiny, debian), the path of a recipe, or that of a .json "
            "file which describes an image made elsewhere"
        ),
    ] = "debian"
    memory: Annotated[int, msgspec.Meta(ge=32, le=1 << 20, description="its memory, in MiB")] = 512
    vcpus: Annotated[int, msgspec.Meta(ge=1, le=64, description="virtual CPUs")] = 1
    vlans: Annotated[
        list[Vlan],
        msgspec.Meta(
            description="networks it is on, in order eth0 (or eth1), …; by default with "
            "start_command those whose QEMU_VDE_SOCKET_n is in the script"
        ),
    ] = msgspec.field(default_factory=lambda: [1])
    spare_eth0: Annotated[
        bool,
        msgspec.Meta(description="eth0 is on no network, and the networks begin with eth1"),
    ] = False
    ipv6: Annotated[
        bool, msgspec.Meta(description="it has an IPv6 address on each network, too")
    ] = False
    machine: Annotated[Literal["microvm", "q35"], msgspec.Meta(description="QEMU machine type")] = (
        "microvm"
    )
    ready_unit: Annotated[
        str,
        msgspec.Meta(
            description="the systemd unit that must be active before the script goes on; none by "
            "default with start_command"
        ),
    ] = "multi-user.target"
    start_timeout: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=_YEAR,
            description="seconds from start until the machine is ready; no limit by default with "
            "start_command",
        ),
    ] = 300.0
    files: Annotated[
        dict[str, str],
        msgspec.Meta(
            description="files and directories of this host that are copied into it before the "
            "snapshot is made: absolute paths in the machine, and paths on this host, relative to "
            "the manifest's directory"
        ),
    ] = msgspec.field(default_factory=dict)
    warm_until: Annotated[
        str | None,
        msgspec.Meta(
            description="the systemd unit that must be active before the snapshot is made from "
            "which the machine starts; default: ready_unit"
        ),
    ] = None
    warm_steps: Annotated[
        list[str],
        msgspec.Meta(description="commands that are run once, before the snapshot is made"),
    ] = msgspec.field(default_factory=list)
    allow_reboot: Annotated[
        bool,
        msgspec.Meta(description="its own reboot boots it again, instead of ending the machine"),
    ] = False
    root: (
        Annotated[
            Literal["disk", "memory"],
            msgspec.Meta(
                description="where it writes its root: to a disk, which it keeps when it reboots "
                "or is started again, or into its memory; default: to a disk where its image can"
            ),
        ]
        | None
    ) = None
    root_size: (
        Annotated[
            int,
            msgspec.Meta(ge=64, le=1 << 24, description="MiB of its root on a disk; default: 8192"),
        ]
        | None
    ) = None
    disks: Annotated[
        list[Disk], msgspec.Meta(description="disks, /dev/disk/by-id/virtio-disk0 and so on")
    ] = msgspec.field(default_factory=list)
    hugepages: Annotated[
        bool, msgspec.Meta(description="take its memory from the host's reserved 2 MiB pages")
    ] = False
    prefault: Annotated[
        bool, msgspec.Meta(description="allocate all its memory before it starts")
    ] = False
    nested: Annotated[
        bool, msgspec.Meta(description="KVM works in it; it is a q35 machine then")
    ] = False
    graphics: Annotated[
        bool, msgspec.Meta(description="it has a display and a keyboard; it is a q35 machine then")
    ] = False
    number: (
        Annotated[
            int,
            msgspec.Meta(
                ge=1,
                le=MAX_NODES,
                description="what its addresses end with; default: its place among all names",
            ),
        ]
        | None
    ) = None
    own_identity: Annotated[
        bool,
        msgspec.Meta(
            description="its image says who it is: attest sets no host name, addresses or names "
            "of others, and tells the others no address of it"
        ),
    ] = False
    vmm: Annotated[
        VmmName | None, msgspec.Meta(description="the VMM that runs it; default: that of the run")
    ] = None
    channel: Annotated[
        Literal["serial", "vsock"] | None,
        msgspec.Meta(description="how its agent is reached; default: as is usual with its VMM"),
    ] = None
    balloon: Annotated[
        bool, msgspec.Meta(description="give memory that it frees back to the host")
    ] = False
    jail: Annotated[
        bool, msgspec.Meta(description="lock Firecracker up with its jailer; needs root")
    ] = False


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A test: its machines and its script."""

    nodes: Annotated[dict[str, Node], msgspec.Meta(min_length=1, description="machines by name")]
    name: Annotated[
        str,
        msgspec.Meta(
            description="the test's name; default: the file's, or the directory's of a test.toml"
        ),
    ] = ""
    script: Annotated[
        str, msgspec.Meta(description="the script: a path ending in .py, or the Python text itself")
    ] = ""
    timeout: Annotated[
        float, msgspec.Meta(gt=0, le=_YEAR, description="seconds for the script")
    ] = 3600.0
    vlans: Annotated[
        list[Vlan],
        msgspec.Meta(description="networks beyond those of the nodes, for start scripts"),
    ] = msgspec.field(default_factory=list)
    firecracker: Annotated[
        str, msgspec.Meta(description="path of the Firecracker to use; default: the host's")
    ] = ""
    cloud_hypervisor: Annotated[
        str, msgspec.Meta(description="path of the Cloud Hypervisor to use; default: the host's")
    ] = ""
    directory: Annotated[str, msgspec.Meta(description="what relative paths are relative to")] = "."

    def numbers(self) -> dict[str, int]:
        """Each node's number: alphabetical, from 1 (as in NixOS tests), unless it names one."""
        return {
            name: self.nodes[name].number or place
            for place, name in enumerate(sorted(self.nodes), start=1)
        }

    def image_nodes(self) -> dict[str, Node]:
        """The nodes that boot an image, by name; all others have a start script."""
        return {name: node for name, node in self.nodes.items() if not node.start_command}

    def all_vlans(self) -> list[int]:
        """The numbers of all networks: those that nodes are on, and those declared beside them."""
        return sorted({*self.vlans, *(vlan for node in self.nodes.values() for vlan in node.vlans)})

    def programs(self) -> dict[str, str]:
        """The paths of VMMs' programs that it gives, by the VMM's name."""
        given = {"firecracker": self.firecracker, "cloud-hypervisor": self.cloud_hypervisor}
        return {
            vmm: str(Path(self.directory, program).absolute())
            for vmm, program in given.items()
            if program
        }

    def script_path(self) -> Path | None:
        """The script's file; None where the manifest has its text, or nothing."""
        return Path(self.directory, self.script) if names_script(self.script) else None

    def script_dir(self) -> Path:
        """The directory of the script's file, or else of the manifest."""
        path = self.script_path()
        return path.parent if path else Path(self.directory)

    def script_text(self) -> tuple[str, str]:
        """The script's text and the file name for its tracebacks.

        Raises:
            ManifestError: There is no script, or its file cannot be read.
        """
        if not self.script:
            raise ManifestError(
                f"{self.name}: no script", hint='add `script = "test.py"` to the manifest'
            )
        path = self.script_path()
        if path is None:
            return self.script, f"<script of {self.name}>"
        try:
            return read_text(path), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(
                f"{self.name}: script: cannot read {path}: {unreadable(error)}"
            ) from None


class Document(Manifest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A manifest as it is written."""

    defaults: Annotated[
        Node, msgspec.Meta(description="keys of nodes, for the nodes that do not have them")
    ] = Node()


_SIZE = (mebibytes, SIZE_PATTERN)
_DURATION = (written_seconds, DURATION_PATTERN)

_WITH_UNITS: Final[dict[type[msgspec.Struct], dict[str, tuple[Callable[[Any], Any], str]]]] = {
    Document: {"timeout": _DURATION},
    Node: {"memory": _SIZE, "root_size": _SIZE, "start_timeout": _DURATION},
    Disk: {"size": _SIZE},
}
"""The keys that may be texts with units: what makes MiB or seconds of them, and which texts."""

_OF_ONE_NODE: Final = ("start_command", "number")
"""The keys that no two nodes can share."""


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of what is written."""
    schema = msgspec.json.schema(Document)
    definitions = schema["$defs"]
    for struct, keys in _WITH_UNITS.items():
        for name, (_, pattern) in keys.items():
            _allow_units(definitions[struct.__name__]["properties"], name, pattern)
    node = definitions["Node"]
    shared = {key: value for key, value in node["properties"].items() if key not in _OF_ONE_NODE}
    definitions["Defaults"] = {**node, "title": "Defaults", "properties": shared}
    defaults = definitions["Document"]["properties"]["defaults"]
    definitions["Document"]["properties"]["defaults"] = {
        "description": defaults["description"], "$ref": "#/$defs/Defaults",
    }  # fmt: skip
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _allow_units(properties: dict[str, Any], name: str, pattern: str) -> None:
    """Let a size or a duration be a text, too."""
    plain = properties[name]
    extra = {key: plain.pop(key) for key in ("description", "default") if key in plain}
    choices = plain.get("anyOf", [plain])
    text = {"type": "string", "pattern": pattern}
    properties[name] = {**extra, "anyOf": [*choices, text]}


def load_manifest(path: Path | str) -> Manifest:
    """Read a manifest from a ``.toml`` or ``.json`` file.

    Raises:
        ManifestError: It cannot be read, parsed or used.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot read the manifest: {unreadable(error)}") from None
    try:
        raw = decode_document(path, text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        language = "JSON" if path.suffix == ".json" else "TOML"
        raise ManifestError(f"{path}: not valid {language}: {error}") from None
    if isinstance(raw, dict):
        raw = {"name": _name_of(path), "directory": str(path.parent), **raw}
    return parse_manifest(raw, source=str(path))


def decode_document(path: Path, text: str) -> Any:
    """What is written in a file: JSON where its name says so, else TOML.

    Raises:
        json.JSONDecodeError, tomllib.TOMLDecodeError: It is not; both are `ValueError`.
    """
    return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)


def names_script(script: str) -> bool:
    """Whether a manifest's ``script`` is the name of a file, and not the script itself."""
    return script.endswith(".py") and "\n" not in script


def _name_of(path: Path) -> str:
    """What a test is called that does not say it: as its file, or its directory.

    Most manifests are called ``test``, which would tell no two of them apart.
    """
    directory = os.path.basename(os.path.dirname(os.path.abspath(path)))
    return directory if path.stem == "test" and directory else path.stem


def parse_manifest(raw: Any, *, source: str = "manifest") -> Manifest:
    """Turn decoded TOML or JSON into a manifest.

    Args:
        raw: The decoded document.
        source: What to call it in errors; a file name, mostly.

    Raises:
        ManifestError: A wrong key, type or value; names its path.
    """
    if not isinstance(raw, dict):
        raise ManifestError(f"{source}: expected a table of keys, found {kind_of(raw)}")
    nodes = raw.get("nodes")
    if not isinstance(nodes, dict) or not nodes:
        found = "nothing" if nodes is None else kind_of(nodes) if nodes else "an empty table"
        check_keys(raw, Document, source, "", ManifestError)
        raise ManifestError(
            f"{source}: nodes: expected a table with one entry for each machine, found {found}",
            hint='the smallest is `[nodes.machine]` with `image = "tiny"`',
        )
    names = _expanded(nodes, source)
    check_names(names, source=source)
    check_keys(raw, Document, source, "", ManifestError)
    top = {key: value for key, value in raw.items() if key not in ("nodes", "defaults")}
    top = _without_units(top, Document, source, "")
    fields = convert({**top, "nodes": {"placeholder": {}}}, Manifest, source, "", ManifestError)
    defaults = _defaults(raw.get("defaults", {}), source, fields.directory)
    parsed = {
        key: _node(_Written(source, f"nodes.{key}", value, defaults), fields.directory)
        for key, value in nodes.items()
    }
    manifest = msgspec.structs.replace(
        fields, nodes={name: parsed[key] for name, key in names.items()}
    )
    _check_numbers(manifest.numbers(), source)
    _check_globals(manifest, source)
    _check_script(manifest, source)
    return manifest


def _expanded(keys: Iterable[str], source: str) -> dict[str, str]:
    """The machines' names, and as which key each is written."""
    names: dict[str, str] = {}
    for key in keys:
        try:
            expanded = expand_range(key, MAX_NODES)
        except ValueError as error:
            raise ManifestError(f"{source}: nodes.{key}: {error}") from None
        for name in expanded:
            if (other := names.setdefault(name, key)) != key:
                raise ManifestError(f"{source}: nodes.{key}: {name} is one of nodes.{other}, too")
    return names


def _defaults(raw: Any, source: str, directory: str) -> dict[str, Any]:
    """The keys for the nodes that do not have them, checked as a node's are."""
    for key in _OF_ONE_NODE:
        if isinstance(raw, dict) and key in raw:
            raise ManifestError(
                f"{source}: defaults.{key}: it is one node's, and no two can share it",
                hint=f"write it in the node: `[nodes.NAME]` with `{key} = …`",
            )
    return _checked(raw, source, "defaults", directory)


class _Written(NamedTuple):
    """What is written of a node.

    Attributes:
        source: The document.
        where: Its place in there.
        own: Its own table.
        defaults: What goes for it where it says nothing else.
    """

    source: str
    where: str
    own: Any
    defaults: dict[str, Any]

    def at(self, key: str) -> str:
        """The place of one of its keys, for errors."""
        if key in self.defaults and key not in self.own:
            return f"{self.source}: defaults.{key} (for {self.where})"
        return f"{self.source}: {self.where}.{key}"


def _checked(raw: Any, source: str, where: str, directory: str) -> dict[str, Any]:
    """A table with keys of a node, each of which is right in itself, and without units."""
    if not isinstance(raw, dict):
        raise ManifestError(f"{source}: {where}: expected a table of keys, found {kind_of(raw)}")
    check_keys(raw, Node, source, where, ManifestError)
    table: dict[str, Any] = _without_units(raw, Node, source, where)
    if isinstance(disks := table.get("disks"), list):
        table["disks"] = [
            _without_units(disk, Disk, source, f"{where}.disks.{index}")
            for index, disk in enumerate(disks)
        ]
    node = convert(table, Node, source, where, ManifestError)
    if len(set(node.vlans)) != len(node.vlans):
        raise ManifestError(f"{source}: {where}.vlans: each network once, found {node.vlans}")
    for index, disk in enumerate(node.disks):
        if (disk.size is None) == (disk.image is None):
            raise ManifestError(
                f"{source}: {where}.disks.{index}: expected either `size` (an empty disk) or "
                f"`image` (a path), found {'neither' if disk.size is None else 'both'}"
            )
    for target, path in node.files.items():
        _check_file(target, Path(directory, path), f'{source}: {where}.files."{target}"')
    return table


def _check_file(target: str, path: Path, where: str) -> None:
    """Check a path in a machine, and that of the file that goes there."""
    if not target.startswith("/") or posixpath.normpath(target) != target or target == "/":
        raise ManifestError(
            f"{where}: expected an absolute path in the machine, without `..` and without a slash "
            "at its end"
        )
    if not path.exists():
        raise ManifestError(f"{where}: there is no file or directory {path}")


def _without_units(raw: Any, struct: type[msgspec.Struct], source: str, where: str) -> Any:
    """A table with its sizes in MiB and its durations in seconds; what is no table stays."""
    if not isinstance(raw, dict):
        return raw
    table = dict(raw)
    for key, (convert_units, _) in _WITH_UNITS[struct].items():
        if table.get(key) is not None:
            try:
                table[key] = convert_units(table[key])
            except ValueError as error:
                place = f"{where}.{key}" if where else key
                found = json.dumps(raw[key], default=str)
                raise ManifestError(f"{source}: {place}: {error}, found {found}") from None
    return table


def _node(written: _Written, directory: str) -> Node:
    own = _checked(written.own, written.source, written.where, directory)
    if own.get("start_command"):
        return _scripted(written, directory)
    node = msgspec.convert({**written.defaults, **own}, Node)
    _check_hugepages(node, written.at("memory"))
    if node.nested or node.graphics:
        if {"machine": "q35", **written.defaults, **own}["machine"] != "q35":
            kind = "nested machine" if node.nested else "machine with a display"
            raise ManifestError(
                f"{written.at('machine')}: a {kind} is a q35, found {node.machine}",
                hint="leave `machine` out",
            )
        node = msgspec.structs.replace(node, machine="q35")
    return node


def _scripted(written: _Written, directory: str) -> Node:
    """A node of a start script, with the defaults of such nodes.

    Of the manifest's own defaults those go for it that make sense with a start script: the others
    say what machines are that boot an image, and are not meant for it.
    """
    for key in written.own:
        if key not in _SCRIPTED_KEYS:
            raise ManifestError(
                f"{written.at(key)}: of a node with `start_command` the script decides that",
                hint=f"with it go {', '.join(_SCRIPTED_KEYS[1:])}",
            )
    table = {key: value for key, value in written.defaults.items() if key in _SCRIPTED_KEYS}
    table |= written.own
    node = msgspec.convert(table, Node)
    path = Path(directory, node.start_command).absolute()
    where = written.at("start_command")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ManifestError(f"{where}: cannot read {path}: {error.strerror}") from None
    if not os.access(path, os.X_OK):
        raise ManifestError(f"{where}: {path} is not executable")
    return msgspec.structs.replace(
        node,
        start_command=str(path),
        vlans=node.vlans if "vlans" in table else vlans_in(text),
        ready_unit=node.ready_unit if "ready_unit" in table else "",
        start_timeout=node.start_timeout if "start_timeout" in table else NO_LIMIT,
    )


def _check_globals(manifest: Manifest, source: str) -> None:
    """Refuse names that no script can use. NixOS's tests may have them: a machine goes first there.

    Each of their nodes has a start script.
    """
    vlans = manifest.all_vlans()
    for name in manifest.image_nodes():
        if why := taken(name, vlans):
            raise ManifestError(
                f"{source}: nodes.{name}: {why}", hint=f"another name, such as `{name}1`"
            )


def _check_script(manifest: Manifest, source: str) -> None:
    """Say of a script that is not there that it is not, before any machine is made."""
    path = manifest.script_path()
    if path is None and re.fullmatch(r"[\w.~/-]*[./][\w.~/-]*", manifest.script):
        raise ManifestError(
            f"{source}: script: expected a path that ends in .py, or Python, found "
            f"{json.dumps(manifest.script)}"
        )
    if path and not path.is_file():
        raise ManifestError(f"{source}: script: there is no file {path}")


def _check_numbers(numbers: dict[str, int], source: str) -> None:
    owners: dict[int, str] = {}
    for name, number in numbers.items():
        if (other := owners.setdefault(number, name)) != name:
            raise ManifestError(
                f"{source}: nodes.{name}.number: {number} is that of nodes.{other}",
                hint="a node without `number` has its place among all names, from 1",
            )


def vlans_in(text: str) -> list[int]:
    """The networks whose VDE switches a start script uses."""
    return sorted({int(vlan) for vlan in re.findall(r"QEMU_VDE_SOCKET_(\d{1,3})\b", text)})


def on_hugepages(manifest: Manifest) -> Manifest:
    """The manifest with the memory of every node on huge pages.

    Raises:
        ManifestError: A node's memory is no whole number of them.
    """
    nodes = {
        name: node if node.start_command else msgspec.structs.replace(node, hugepages=True)
        for name, node in manifest.nodes.items()
    }
    for name, node in nodes.items():
        _check_hugepages(node, f"{manifest.name}: nodes.{name}.memory")
    return msgspec.structs.replace(manifest, nodes=nodes)


def _check_hugepages(node: Node, where: str) -> None:
    if node.hugepages and node.memory % 2:
        raise ManifestError(
            f"{where}: huge pages have 2 MiB, so it must be even, found {node.memory}"
        )


def check_names(names: Iterable[str], *, source: str) -> None:
    """Check that machines can be called so, all of them in one cluster.

    Args:
        names: The machines' names.
        source: What to call their origin in errors.

    Raises:
        ManifestError: A name is no host name, or is that of each machine for itself; it is the same
            host name as another, or becomes the same global of the script; or there are more than
            `MAX_NODES`.
    """
    seen: dict[str, str] = {}
    hosts: dict[str, str] = {}
    for name in names:
        if not re.fullmatch(_NODE_NAME, name):
            raise ManifestError(
                f"{source}: nodes.{name}: a name is a host name: letters, digits and inner - and "
                f"_, at most 63; found {name!r}"
            )
        if name.lower() in _LOOPBACK:
            raise ManifestError(f"{source}: nodes.{name}: so each machine calls itself")
        other = hosts.get(name.lower())
        if other == name:
            raise ManifestError(f"{source}: nodes.{name}: there is a nodes.{name}")
        if other:
            raise ManifestError(
                f"{source}: nodes.{name}: host names differ in more than capitals, and there is "
                f"nodes.{other}"
            )
        hosts[name.lower()] = name
        identifier = global_name(name)
        if other := seen.get(identifier):
            raise ManifestError(
                f"{source}: nodes.{name}: in the script this is `{identifier}`, as nodes.{other} is"
            )
        seen[identifier] = name
    if len(seen) > MAX_NODES:
        raise ManifestError(f"{source}: nodes: {len(seen)} machines, at most {MAX_NODES} fit")

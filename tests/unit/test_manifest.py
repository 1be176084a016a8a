"""Manifests: what is read, and what a mistake is answered with."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from attest.errors import ManifestError
from attest.manifest import json_schema, load_manifest, on_hugepages, parse_manifest


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(
        'script = "pass"\n[nodes.web]\nmemory = 256\nvlans = [1, 3]\n'
    )
    (tmp_path / "one.json").write_text(
        json.dumps({"script": "pass", "nodes": {"web": {"memory": 256, "vlans": [1, 3]}}})
    )
    assert load_manifest(tmp_path / "one.toml") == load_manifest(tmp_path / "one.json")


def test_nodes_are_numbered_by_name() -> None:
    manifest = parse_manifest({"nodes": {"web": {}, "db": {}, "client": {}}})
    assert manifest.numbers() == {"client": 1, "db": 2, "web": 3}


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "test.toml"
    path.write_text('script = "absent.py"\nnodes.web.image = "tiny"\n')
    with pytest.raises(ManifestError) as caught:
        load_manifest(path)
    assert str(caught.value) == f"{path}: script: there is no file {tmp_path}/absent.py"


def test_a_range_of_names_is_a_node_for_each() -> None:
    nodes = {"web{1..3}": {"memory": 256}, "db": {}, "cell-{09..10}-a": {}}
    parsed = parse_manifest({"nodes": nodes}).nodes
    assert list(parsed) == ["web1", "web2", "web3", "db", "cell-09-a", "cell-10-a"]
    assert [parsed[name].memory for name in ("web1", "web3", "db")] == [256, 256, 512]


def test_defaults_go_for_what_a_node_does_not_say() -> None:
    raw = {
        "defaults": {"image": "tiny", "memory": "1G", "vlans": [1, 2], "graphics": True},
        "nodes": {"a": {}, "b": {"memory": 96, "vlans": [3], "graphics": False}},
    }
    nodes = parse_manifest(raw).nodes
    assert [(each.image, each.memory, each.vlans, each.machine) for each in nodes.values()] == [
        ("tiny", 1024, [1, 2], "q35"),
        ("tiny", 96, [3], "microvm"),
    ]


def test_a_node_of_a_start_script_takes_the_defaults_that_fit_it(tmp_path: Path) -> None:
    script = tmp_path / "run-web-vm"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    raw = {
        "defaults": {"memory": 1024, "image": "tiny", "disks": [{"size": 1}], "start_timeout": 7},
        "nodes": {"web": {"start_command": str(script)}, "db": {}},
    }
    nodes = parse_manifest(raw).nodes
    assert (nodes["web"].memory, nodes["web"].disks) == (512, [])
    assert (nodes["web"].start_timeout, nodes["db"].start_timeout) == (7, 7)
    assert (nodes["web"].vlans, nodes["web"].ready_unit) == ([], "")


@pytest.mark.parametrize(
    ("written", "mib"),
    [(96, 96), ("96M", 96), ("96MiB", 96), ("1G", 1024), ("1GiB", 1024), ("1.5G", 1536),
     ("0.0625G", 64), ("64.0M", 64)],
)  # fmt: skip
def test_a_size_may_have_a_unit(written: object, mib: int) -> None:
    keys = {"memory": written, "root_size": written, "disks": [{"size": written}]}
    node = parse_manifest({"nodes": {"a": keys}}).nodes["a"]
    assert (node.memory, node.root_size, node.disks[0].size) == (mib, mib, mib)


@pytest.mark.parametrize("written", ["1", "1T", "1 G", "G", "1g", "-1G", "1.G", "", "1e3M", "1MB"])
def test_a_size_without_a_good_unit_is_none(written: str) -> None:
    with pytest.raises(
        ManifestError, match=r'nodes\.a\.memory: .*such as "512M" or "1\.5G", found'
    ):
        parse_manifest({"nodes": {"a": {"memory": written}}})


@pytest.mark.parametrize(
    ("written", "seconds"),
    [(7, 7), (0.5, 0.5), ("90s", 90), ("5min", 300), ("1h30min", 5400), ("1.5 h", 5400),
     ("2min 200ms", 120.2), ("1 d", 86_400), ("2 weeks", 14 * 86_400), ("3m", 180),
     ("250msec", 0.25), ("1hr 1 second", 3601), (timedelta(minutes=2), 120)],
)  # fmt: skip
def test_a_duration_may_have_units(written: object, seconds: float) -> None:
    raw = {"timeout": written, "nodes": {"a": {"start_timeout": written}, "b": {}}}
    manifest = parse_manifest(raw | {"defaults": {"start_timeout": written}})
    found = (manifest.timeout, *(node.start_timeout for node in manifest.nodes.values()))
    assert found == pytest.approx((seconds,) * 3)


@pytest.mark.parametrize("written", ["90", "", "s", "5 minuets", "1h30", "-1s", "1.s", "5M", "∞"])
def test_a_duration_without_good_units_is_none(written: str) -> None:
    expected = 'expected a number of seconds, or a text such as "90s" or "1h30min", found '
    for raw in (
        {"timeout": written, "nodes": {"a": {}}},
        {"nodes": {"a": {"start_timeout": written}}},
    ):
        with pytest.raises(
            ManifestError, match=rf"manifest: (nodes\.a\.start_)?timeout: {expected}"
        ):
            parse_manifest(raw)


@pytest.mark.parametrize("written", ["0s", "60w", True, [1]])
def test_a_duration_is_within_bounds(written: object) -> None:
    with pytest.raises(ManifestError, match=r"timeout: expected "):
        parse_manifest({"timeout": written, "nodes": {"a": {}}})


def test_a_test_is_called_as_its_file_or_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = tmp_path / "web"
    web.mkdir()
    for name in ("test.toml", "test.json", "other.toml"):
        (web / name).write_text('{"nodes": {"a": {}}}' if "json" in name else "nodes.a = {}")
    assert load_manifest(web / "test.toml").name == "web"
    assert load_manifest(web / "test.json").name == "web"
    assert load_manifest(web / "other.toml").name == "other"
    (web / "sub").mkdir()
    monkeypatch.chdir(web / "sub")
    assert load_manifest("../test.toml").name == "web"
    (web / "test.toml").write_text('name = "mine"\nnodes.a = {}')
    assert load_manifest(web / "test.toml").name == "mine"


def test_a_node_may_name_its_number() -> None:
    nodes = {"a": {"image": "tiny"}, "b": {"image": "tiny", "number": 7}}
    assert parse_manifest({"nodes": nodes}).numbers() == {"a": 1, "b": 7}


def test_each_number_is_one_nodes() -> None:
    nodes = {"a": {"image": "tiny"}, "b": {"image": "tiny", "number": 1}}
    with pytest.raises(ManifestError, match=r"test\.toml: nodes\.b\.number: 1 is that of nodes\.a"):
        parse_manifest({"nodes": nodes}, source="test.toml")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"nodes": {"web": {"memroy": 256}}}, ["nodes.web.memroy", "did you mean `memory`"]),
        (
            {"nodes": {"web": {"machine": "q36"}}},
            ['nodes.web.machine: expected "microvm" or "q35", found "q36"'],
        ),
        (
            {"nodes": {"web": {"channel": 1}}},
            ['nodes.web.channel: expected "serial" or "vsock", found 1'],
        ),
        (
            {"nodes": {"web": {"memory": "big"}}},
            ["nodes.web.memory: expected a whole number of MiB, or a text", 'found "big"'],
        ),
        ({"nodes": {"web": {"memory": 1.5}}}, ['such as "512M" or "1.5G", found 1.5']),
        ({"nodes": {"web": {"memory": True}}}, ['such as "512M" or "1.5G", found true']),
        ({"nodes": {"web": {"memory": "16M"}}}, ["nodes.web.memory", ">= 32", "found 16"]),
        (
            {"nodes": {"web": {"memory": "0.1G"}}},
            ['nodes.web.memory: expected a whole number of MiB, which this is not, found "0.1G"'],
        ),
        (
            {"nodes": {"web": {"disks": [{"size": 1}, {"size": "1T"}]}}},
            ["nodes.web.disks.1.size: expected a whole number of MiB", 'found "1T"'],
        ),
        ({"nodes": {"web": {"disks": [3]}}}, ["nodes.web.disks.0: expected a table, found 3"]),
        ({"nodes": {"web": {"memory": 3}}}, ["nodes.web.memory", ">= 32", "found 3"]),
        ({"nodes": {"web": {"vlans": [1, 999]}}}, ["nodes.web.vlans.1", "<= 254", "found 999"]),
        ({"nodes": {"web": {"vlans": [1, 1]}}}, ["nodes.web.vlans", "once"]),
        ({"nodes": {"web": {"machine": "pc"}}}, ["nodes.web.machine", '"pc"']),
        ({"nodes": {"web": {"vmm": "xen"}}}, ["nodes.web.vmm", '"xen"']),
        ({"nodes": {"web": {"channel": "usb"}}}, ["nodes.web.channel", '"usb"']),
        (
            {"nodes": {"web": {"balloon": 64}}},
            ["web.balloon: expected true or false", "found 64"],
        ),
        (
            {"nodes": {"web": {"jail": "yes"}}},
            ["web.jail: expected true or false", '"yes"'],
        ),
        ({"nodes": {"web": {"ipv6": 6}}}, ["nodes.web.ipv6", "expected true or false", "found 6"]),
        ({"nodes": {"web": {"spare_eth": True}}}, ["spare_eth", "did you mean `spare_eth0`"]),
        ({"nodes": {"web": {}}, "firecracker": 1}, ["firecracker", "expected text", "found 1"]),
        ({"nodes": {"web": {}}, "vmm": "qemu"}, ["vmm", "unknown key"]),
        ({"nodes": {"web-": {}}}, ["nodes.web-", "host name"]),
        ({"nodes": {"web": 3}}, ["nodes.web", "expected a table", "a number"]),
        ({"nodes": {}}, ["nodes", "an empty table"]),
        ({"nodse": {"web": {}}}, ["nodse", "did you mean `nodes`"]),
        ({"nodes": {"web": {}}, "timeout": -1}, ["timeout", "> 0", "found -1"]),
        ({"nodes": {"a-b": {}, "a_b": {}}}, ["nodes.a_b", "`a_b`", "nodes.a-b"]),
        ({"nodes": {"9-a": {}, "8-a": {}}}, ["nodes.8-a", "`__a`", "nodes.9-a"]),
        ({"nodes": {"class": {}}}, ["nodes.class: `class` is a word of Python's", "`class1`"]),
        ({"nodes": {"None": {}}}, ["nodes.None: `None` is a word of Python's"]),
        ({"nodes": {"print": {}}}, ["nodes.print: a script would lack Python's `print`"]),
        ({"nodes": {"log": {}}}, ["nodes.log: `log` is something else in a script"]),
        ({"nodes": {"start-all": {}}}, ["nodes.start-all: `start_all` is something else"]),
        ({"nodes": {"vlan1": {}}}, ["nodes.vlan1: `vlan1` is a network in a script"]),
        ({"nodes": {"localhost": {}}}, ["nodes.localhost: so each machine calls itself"]),
        ({"nodes": {"web": {}, "WEB": {}}}, ["nodes.WEB: host names differ in more than capitals"]),
        ({"nodes": {"a": {}}, "script": "test.sh"}, ["script: expected a path that ends in .py"]),
        ({"nodes": {"a": {}}, "script": "../test"}, ['or Python, found "../test"']),
        ([1], ["expected a table", "a list"]),
        # defaults
        ({"nodes": {"web": {}}, "defualts": {}}, ["defualts", "did you mean `defaults`?"]),
        ({"nodes": {"web": {}}, "defaults": 3}, ["defaults: expected a table", "a number"]),
        ({"nodes": {"a": {}}, "defaults": {"memroy": 1}}, ["defaults.memroy", "`memory`"]),
        ({"nodes": {"a": {}}, "defaults": {"memory": 3}}, ["defaults.memory", ">= 32", "found 3"]),
        ({"nodes": {"a": {}}, "defaults": {"memory": "x"}}, ["defaults.memory", '"1.5G"', '"x"']),
        ({"nodes": {"a": {}}, "defaults": {"number": 3}}, ["defaults.number: it is one node's"]),
        ({"nodes": {"a": {}}, "defaults": {"start_command": "x"}}, ["defaults.start_command: it"]),
        ({"nodes": {"a": {}}, "defaults": {"vlans": [1, 1]}}, ["defaults.vlans: each network on"]),
        ({"nodes": {"a": {}}, "defaults": {"disks": [{}]}}, ["defaults.disks.0: expected either"]),
        (
            {"nodes": {"a": {"hugepages": True}}, "defaults": {"memory": 97}},
            ["test.toml: defaults.memory (for nodes.a): huge pages", "found 97"],
        ),
        (
            {"nodes": {"a": {"nested": True}}, "defaults": {"machine": "microvm"}},
            ["test.toml: defaults.machine (for nodes.a): a nested machine is a q35"],
        ),
        # files
        ({"nodes": {"a": {"files": ["x"]}}}, ["nodes.a.files: expected a table"]),
        ({"nodes": {"a": {"files": {"/x": 3}}}}, ["nodes.a.files", "expected text"]),
        ({"nodes": {"a": {"files": {"x": "/dev/null"}}}}, ['a.files."x": expected an absolute']),
        ({"nodes": {"a": {"files": {"/x/../y": "/"}}}}, ['a.files."/x/../y": expected an absol']),
        ({"nodes": {"a": {"files": {"/x/": "/"}}}}, ["without a slash at its end"]),
        ({"nodes": {"a": {"files": {"/": "/"}}}}, ['a.files."/": expected an absolute']),
        (
            {"nodes": {"a": {"files": {"/x": "gone"}}}, "directory": "/nonesuch"},
            ['test.toml: nodes.a.files."/x": there is no file or directory /nonesuch/gone'],
        ),
        (
            {"nodes": {"a": {}}, "defaults": {"files": {"/x": "/nonesuch"}}},
            ['test.toml: defaults.files."/x": there is no'],
        ),
        # ranges of names
        ({"nodes": {"web{1-3}": {}}}, ["nodes.web{1-3}: expected one range", "as in web{1..3}"]),
        ({"nodes": {"web{1..2}{1..2}": {}}}, ["expected one range"]),
        ({"nodes": {"web{3..1}": {}}}, ["nodes.web{3..1}: expected a range", "that counts up"]),
        ({"nodes": {"w{1..999999999}": {}}}, ["at most 250"]),
        ({"nodes": {"w b{1..2}": {}}}, ["nodes.w b1", "host name"]),
        ({"nodes": {"web{1..3}": {}, "web2": {}}}, ["nodes.web2: web2 is one of nodes.web{1..3}"]),
        ({"nodes": {"web{1..2}": {"memory": 3}}}, ["nodes.web{1..2}.memory: expected", "found 3"]),
        ({"nodes": {"web{1..2}": {"number": 3}}}, ["nodes.web2.number: 3 is that of nodes.web1"]),
    ],
)
def test_a_mistake_is_named_with_its_path(raw: Any, words: list[str]) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(raw, source="test.toml")
    message = str(caught.value)
    assert message.startswith("test.toml: ")
    assert [word for word in words if word not in message] == [], message


def test_a_node_is_run_by_the_runs_vmm_unless_it_names_one() -> None:
    nodes = {"a": {}, "b": {"vmm": "auto", "channel": "vsock", "balloon": True, "jail": True}}
    parsed = parse_manifest({"nodes": nodes}).nodes
    assert (parsed["a"].vmm, parsed["a"].channel) == (None, None)
    assert (parsed["a"].balloon, parsed["a"].jail) == (False, False)
    assert (parsed["b"].vmm, parsed["b"].channel) == ("auto", "vsock")
    assert (parsed["b"].balloon, parsed["b"].jail) == (True, True)


def test_programs_of_vmms_are_relative_to_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "test.toml").write_text(
        'firecracker = "bin/fc"\ncloud_hypervisor = "/opt/ch"\n[nodes.web]\n'
    )
    programs = load_manifest(tmp_path / "test.toml").programs()
    assert programs == {"firecracker": f"{tmp_path}/bin/fc", "cloud-hypervisor": "/opt/ch"}
    assert parse_manifest({"nodes": {"web": {}}}).programs() == {}


def test_a_file_that_is_no_toml_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[nodes.web]\nmemory = \n")
    with pytest.raises(ManifestError, match=r"bad\.toml: not valid TOML: .*line 2"):
        load_manifest(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.toml: cannot read .*No such file"):
        load_manifest(tmp_path / "none.toml")


def test_the_script_is_a_path_or_a_text(tmp_path: Path) -> None:
    (tmp_path / "test.py").write_text("a = 1\n")
    (tmp_path / "test.toml").write_text('script = "test.py"\n[nodes.web]\n')
    text, filename = load_manifest(tmp_path / "test.toml").script_text()
    assert (text, filename) == ("a = 1\n", str(tmp_path / "test.py"))
    inline = parse_manifest({"name": "x", "script": "b = 2", "nodes": {"web": {}}})
    assert inline.script_text() == ("b = 2", "<script of x>")


def test_the_schema_knows_every_key_of_a_node() -> None:
    node = json_schema()["$defs"]["Node"]["properties"]
    assert {"image", "memory", "vcpus", "vlans", "machine", "vmm", "channel"} <= set(node)


def test_the_schema_knows_what_is_written() -> None:
    definitions = json_schema()["$defs"]
    assert {"defaults", "nodes"} <= set(definitions["Document"]["properties"])
    node, defaults = definitions["Node"]["properties"], definitions["Defaults"]["properties"]
    assert set(node) - set(defaults) == {"start_command", "number"}
    for size in (node["memory"], node["root_size"], definitions["Disk"]["properties"]["size"]):
        text = next(each for each in size["anyOf"] if each["type"] == "string")
        assert re.search(text["pattern"], "1.5G")
        assert next(each for each in size["anyOf"] if each["type"] == "integer")["minimum"] >= 1
    assert node["memory"]["default"] == 512
    for limit in (node["start_timeout"], definitions["Document"]["properties"]["timeout"]):
        text = next(each for each in limit["anyOf"] if each["type"] == "string")
        assert re.search(text["pattern"], "1h 30min")
        assert not re.search(text["pattern"], "30")
        assert next(each for each in limit["anyOf"] if each["type"] == "number")["maximum"]


@pytest.mark.parametrize("name", ["exit", "filter", "machine", "vlan2", "match", "a"])
def test_a_name_that_hides_nothing_is_a_machines(name: str) -> None:
    assert list(parse_manifest({"nodes": {name: {}}}).nodes) == [name]


def test_a_node_of_a_nixos_test_may_hide_what_it_hides_there(tmp_path: Path) -> None:
    start = tmp_path / "run-log-vm"
    start.write_text("#!/bin/sh")
    start.chmod(0o755)
    nodes = {"log": {"start_command": str(start)}}
    assert list(parse_manifest({"nodes": nodes}).nodes) == ["log"]


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "test.py").write_text("start_all()", encoding="utf-8-sig")
    manifest = tmp_path / "test.toml"
    text = 'script = "test.py"\n[nodes.a]\n'
    manifest.write_text(text, encoding="utf-8-sig")
    assert load_manifest(manifest).script_text()[0] == "start_all()"
    manifest.write_text(text, encoding="utf-16")
    with pytest.raises(ManifestError, match=r"test\.toml: .*: it is UTF-16 text, and not UTF-8"):
        load_manifest(manifest)


def test_a_script_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "test.py").write_bytes(b"# \xe9\n")
    (tmp_path / "test.toml").write_text('script = "test.py"\n[nodes.web]\n')
    with pytest.raises(ManifestError, match=r"test\.py: it is not UTF-8 text"):
        load_manifest(tmp_path / "test.toml").script_text()


@pytest.mark.parametrize("value", ["2024-01-01", "inf", "nan", "0"])
def test_a_time_limit_that_is_none_is_answered_with_its_path(tmp_path: Path, value: str) -> None:
    (tmp_path / "test.toml").write_text(f"timeout = {value}\n[nodes.web]\n")
    with pytest.raises(ManifestError, match=r"test\.toml: timeout: "):
        load_manifest(tmp_path / "test.toml")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("disks", [{}], "nodes.a.disks.0: expected either `size`"),
        ("disks", [{"size": 1, "image": "x"}], "found both"),
        ("disks", [{"size": 0}], "nodes.a.disks.0.size"),
        ("warm_steps", "true", "nodes.a.warm_steps"),
    ],
)
def test_what_a_machine_starts_from_is_checked(key: str, value: object, said: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(said)):
        parse_manifest({"nodes": {"a": {key: value}}})


def test_memory_is_a_whole_number_of_huge_pages() -> None:
    with pytest.raises(ManifestError, match=r"nodes\.a\.memory: .* found 97"):
        parse_manifest({"nodes": {"a": {"memory": 97, "hugepages": True}}})
    with pytest.raises(ManifestError, match=r"nodes\.a\.memory: .* found 97"):
        on_hugepages(parse_manifest({"nodes": {"a": {"memory": 97}}}))


def test_a_machine_with_a_display_is_a_q35() -> None:
    nodes = parse_manifest({"nodes": {"pc": {"graphics": True}, "other": {}}}).nodes
    assert (nodes["pc"].machine, nodes["other"].machine) == ("q35", "microvm")
    with pytest.raises(ManifestError, match=r"nodes\.pc\.machine: a machine with a display is a q"):
        parse_manifest({"nodes": {"pc": {"graphics": True, "machine": "microvm"}}})

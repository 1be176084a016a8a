"""What the checker says of scripts: each mistake at its place, and nothing of what is right."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from attest.check.check import check
from attest.check.subject import Subject
from attest.errors import HostError
from attest.script.driver import ALSO_GLOBAL, Driver, namespace

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(ROOT.glob("examples/*/test.toml"))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache that the first check fills and the others use."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(path))
        yield path / "attest"


def found(text: str, *machines: str, vlans: tuple[int, ...] = (1,)) -> list[str]:
    """What is printed of a script."""
    subject = Subject(text, "test.py", machines or ("machine",), vlans)
    return [line for finding in check(subject) for line in finding.lines("test.py")]


def test_the_names_of_the_package_are_known() -> None:
    script = "import attest\nattest.CommandFailed\nattest.Clustr\nmachine.run(['true']).status.no"
    assert [line.partition(" error: ")[0] for line in found(script)] == [
        "test.py:3:1:",
        "test.py:4:1:",
    ]


def test_a_check_can_be_left_out() -> None:
    subject = Subject("import os\nmachine.start('now')", "test.py", ("machine",), (1,))
    codes = {
        skip: [finding.code for finding in check(subject, skip.split())]
        for skip in ("", "types", "names", "types names")
    }
    assert codes == {
        "": ["unused-import", "arg-type"],
        "types": ["unused-import"],
        "names": ["arg-type"],
        "types names": [],
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            'machine.start()\n\nif True:\n    machine.suceed("true")',
            'test.py:4:5: error: "Machine" has no attribute "suceed"; maybe "succeed"?'
            "  [attr-defined]",
            id="unknown method",
        ),
        pytest.param(
            "def helper():\n    machine.explode()",
            'test.py:2:5: error: "Machine" has no attribute "explode"  [attr-defined]',
            id="unknown method in an untyped function",
        ),
        pytest.param(
            "machine.wait_for_open_port('80')",
            'test.py:1:28: error: Argument 1 to "wait_for_open_port" of "Waits" has incompatible '
            'type "str"; expected "int"  [arg-type]',
            id="wrong type",
        ),
        pytest.param(
            "machine.crash(3)",
            'test.py:1:1: error: Too many arguments for "crash" of "Power"  [call-arg]',
            id="too many arguments",
        ),
        pytest.param(
            "out: int = machine.succeed('true')",
            "test.py:1:12: error: Incompatible types in assignment (expression has type "
            '"str", variable has type "int")  [assignment]',
            id="wrong use of a result",
        ),
        pytest.param(
            "machine.ip(1, 6).split(':')\nmachine.interfaces[0].mac.upper()\nmachine.ip(family=5)",
            'test.py:3:19: error: Argument "family" to "ip" of "Network" has incompatible type '
            '"Literal[5]"; expected "Literal[4, 6]"  [arg-type]',
            id="no family of addresses",
        ),
        pytest.param(
            "machine.interfaces[0].vlan + 'x'.addresses",
            'test.py:1:30: error: "str" has no attribute "addresses"  [attr-defined]',
            id="wrong use of an interface",
        ),
        pytest.param(
            "with subtest(3):\n    pass",
            'test.py:1:14: error: Argument 1 has incompatible type "int"; expected "str"'
            "  [arg-type]",
            id="wrong type for a global",
        ),
        pytest.param(
            "start_all()\nserver.succeed('true')",
            'test.py:2:1: error: Name "server" is not defined  [name-defined]',
            id="unknown machine",
        ),
        pytest.param(
            "vlan1.nr\nvlan2.nr",
            'test.py:2:1: error: Name "vlan2" is not defined; did you mean "vlan1" or "vlans"?'
            "  [name-defined]",
            id="unknown network",
        ),
        pytest.param(
            "def up() -> bool:\n    return True\nretry(up)",
            'test.py:3:7: error: Argument 1 has incompatible type "Callable[[], bool]"; expected '
            '"Callable[[bool], object]"  [arg-type]',
            id="callback that is told nothing",
        ),
        pytest.param(
            "def twice(): pass\ntwice()\ndef twice(): pass",
            'test.py:3:1: warning: Name "twice" already defined on line 1  [no-redef]',
            id="another line's number",
        ),
        pytest.param(
            "machine.succeed(f'true')",
            "test.py:1:17: warning: f-string is missing placeholders"
            "  [fstring-missing-placeholders]",
            id="f-string without a placeholder",
        ),
        pytest.param(
            "import re\nre.search('a(.)', machine.succeed('ls'))[1]",
            'test.py:2:1: warning: Value of type "Match[str] | None" is not indexable  [index]',
            id="a match that may not be",
        ),
        pytest.param(
            "assert (machine.booted, 'it has not started')",
            "test.py:1:1: error: Assertion is always true, perhaps remove parentheses?  [misc]",
            id="an assert that never fails",
        ),
        pytest.param(
            "import json\nmachine.start()",
            "test.py:1:1: warning: 'json' imported but unused  [unused-import]",
            id="unused import",
        ),
        pytest.param(
            "def f():\n    é = 'äöü€😀'; x = 1\n    return é",
            "test.py:2:18: warning: local variable 'x' is assigned to but never used"
            "  [unused-variable]",
            id="unused variable behind long characters",
        ),
        pytest.param(
            "'äöü€😀'; machine.explode()",
            'test.py:1:10: error: "Machine" has no attribute "explode"  [attr-defined]',
            id="unknown method behind long characters",
        ),
        pytest.param(
            "start_all()\nif True\n    pass",
            "test.py:2:8: error: expected ':'  [syntax]",
            id="no Python",
        ),
        pytest.param(
            "from . import other\nother",
            "test.py:1:1: error: No parent module -- cannot perform relative import",
            id="what stops mypy",
        ),
    ],
)
def test_a_mistake_is_found_at_its_place(text: str, expected: str) -> None:
    assert found(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "",
        '"""A docstring."""\nfrom __future__ import annotations\nmachine.start()',
        "machine.explode()  # type: ignore",
        "def up(last: bool) -> bool:\n    return machine.is_up() or last\nretry(up, timeout=5)",
        "from datetime import timedelta\nsoon = timedelta(seconds=1)\n"
        "machine.wait_for_unit('x', timeout=soon, state='failed')\n"
        "machine.succeed('true', timeout=soon)\nmachine.sleep(soon)\n"
        "machine.wait_until_fails('true', soon, attempt_timeout=soon)\n"
        "machine.send_chars('x', delay=soon)\nmachine.spawn('x').wait(soon)\n"
        "retry(lambda last: last, timeout_seconds=soon)\n"
        "@polling_condition(interval=soon)\ndef up() -> None: ...\nup.wait(soon)",
        "def up(last):\n    return machine.is_up()\nretry(up)",
        "@polling_condition\ndef up():\n    return machine.is_up()\nwith up:\n    up.wait(9)",
        "@polling_condition(seconds_interval=1.0, description='it is up')\n"
        "def up() -> None:\n    machine.succeed('true')\nwith up:\n    pass",
        "with subtest('a'), machine.nested('b'):\n    log.info(os.getcwd())",
        "def start(which: Machine) -> str:\n    return which.succeed('true')\nstart(machines[0])",
        "t.assertIn('a', machine.succeed('echo a'))",
        "names = wait_all(machines, lambda each: each.name)\nprint(names[0].upper())",
        "cluster.restore(cluster.checkpoint())",
        "import os\nprint(os.environ)",
        "def f():\n    out = machine.succeed('true')\n    out = out.split()\n    return out",
        "def f():\n    def g():\n        nonlocal n\n        n = 1\n    n = 0\n    return g(), n",
        "rows = []\nprint(rows)",
        "import attest_untyped\nattest_untyped.anything(1)",
    ],
)
def test_what_is_right_is_left_alone(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "attest_untyped.py").write_text("def anything(*arguments): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert found(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "for t in (1, 2):\n    print(t + 1)",
        "def retry(n: int) -> int:\n    return n\nprint(retry(3) + 1)",
        "from datetime import datetime as log\nprint(log.now())",
        "class Machine:\n    size = 3\nprint(Machine.size)",
        "machine: Machine\nmachine.succeed('true')",
        "driver = machine.succeed('true')\nprint(driver.upper(), machines[0].name)",
    ],
)
def test_a_script_may_use_a_global_name_for_its_own(text: str) -> None:
    assert found(text) == []


def test_a_global_that_is_read_first_keeps_its_type() -> None:
    assert found("log = log.explode") == [
        'test.py:1:7: error: "Log" has no attribute "explode"  [attr-defined]'
    ]


def test_a_script_is_not_taken_for_the_one_before() -> None:
    assert found("machine.crash()") == []
    assert found("machine.smash()") == [
        'test.py:1:1: error: "Machine" has no attribute "smash"  [attr-defined]'
    ]


def test_machines_go_by_their_global_names() -> None:
    used = "_a.start()\nweb_1.start()\na_b.start()\nvlan7.nr"
    assert found(used, "9a", "web-1", "a_b", vlans=(7,)) == []
    assert found("only.start()\nmachine.start()", "only") == []
    assert found("machine.start()", "one", "two") == [
        'test.py:1:1: error: Name "machine" is not defined; did you mean "machines" or "Machine"?'
        "  [name-defined]"
    ]


def test_every_global_has_a_type() -> None:
    subject = Subject("", "test.py", ["one"], [1, 2])
    names = sorted(subject.declarations)
    calls = [f"reveal_type({name})" for name in names]
    lines = found("from typing import reveal_type\n" + "\n".join(calls), "one", vlans=(1, 2))
    types = {name: line.partition(": note: ")[2] for name, line in zip(names, lines, strict=True)}
    untyped = re.compile(r'is "Any"|[:>] Any\b')
    assert not {name: type_ for name, type_ in types.items() if untyped.search(type_)}
    assert types["machine"] == types["one"]
    assert types["one"] == 'Revealed type is "attest.machine.machine.Machine"'
    assert types["vlan2"] == 'Revealed type is "attest.net.vlan.VLan"'
    assert "def (name: str) -> contextlib" in types["subtest"]


def test_a_script_is_checked_with_the_names_that_it_is_run_with() -> None:
    driver: Any = SimpleNamespace(**dict.fromkeys(ALSO_GLOBAL))
    driver.machines = [SimpleNamespace(name="web-1")]
    driver.vlans = [SimpleNamespace(nr=3)]
    driver.cluster = SimpleNamespace(manifest=SimpleNamespace(script_path=lambda: None))
    given = set(namespace(cast(Driver, driver))) - {"__name__"}
    assert given == set(Subject("", "test.py", ["web-1"], [3]).declarations)


@pytest.mark.parametrize("name", ["mypy", "pyflakes"])
def test_what_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(HostError, match=rf"takes {name}, .*\n  hint: make -C /.* setup"):
        found("")


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert found("machine.explode()") == [
        'test.py:1:1: error: "Machine" has no attribute "explode"  [attr-defined]'
    ]


def attest(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "attest", *arguments],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_checks_a_script_by_itself(tmp_path: Path) -> None:
    (tmp_path / "test.py").write_text("server.start()\nclient.explode()\nvlan2.nr\n")
    result = attest("check", "test.py", "--nodes", "server,client", "--vlans", "1,2", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (
        1,
        'test.py:2:1: error: "Machine" has no attribute "explode"  [attr-defined]\n',
        "test.py: 1 error\n",
    )


def test_the_command_checks_the_script_of_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "test.py").write_text("server.start()\nclient.start()\nvlan3.nr\n")
    manifest = tmp_path / "test.toml"
    manifest.write_text('script = "test.py"\n[nodes.server]\n[nodes.client]\nvlans = [3]\n')
    result = attest("check", manifest, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == f"{tmp_path}/test.py: no errors\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test.toml", "--nodes", "a"], "--nodes and --vlans are for a script by itself"),
        (["test.toml", "--vlans", "1"], "--nodes and --vlans are for a script by itself"),
        (["test.py", "--nodes", "a,,b"], "--nodes: nodes.: a name is a host name"),
        (["test.py", "--nodes", "a-b,a_b"], "in the script this is `a_b`, as nodes.a-b is"),
        (["test.py", "--vlans", "1,x"], "--vlans: expected numbers from 1 to 254, as in 1,2"),
        (["test.py", "--vlans", "255"], "--vlans: expected numbers from 1 to 254, as in 1,2"),
        (["none.py"], "cannot read none.py: No such file"),
        (["bytes.py"], "cannot read bytes.py: it is not UTF-8 text"),
        (["none.toml"], "none.toml: cannot read the manifest"),
    ],
)
def test_bad_input_is_told(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "test.py").write_text("start_all()\n")
    (tmp_path / "bytes.py").write_bytes(b"'\xff'\n")
    (tmp_path / "test.toml").write_text('script = "test.py"\n[nodes.a]\n')
    result = attest("check", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr


def test_a_run_with_a_check_ends_before_it_begins(tmp_path: Path) -> None:
    manifest = tmp_path / "checked.toml"
    manifest.write_text("script = '''\nmachine.explode()\n'''\n[nodes.machine]\n")
    result = attest("run", "--check", "-o", tmp_path / "out", manifest, cwd=tmp_path)
    assert result.returncode == 1
    assert '<script of checked>:1:1: error: "Machine" has no attribute "explode"' in result.stdout
    assert not (tmp_path / "out").exists()


def test_a_module_that_lies_beside_a_script_is_found(tmp_path: Path) -> None:
    (tmp_path / "sizes.py").write_text("def double(size: int) -> int:\n    return 2 * size\n")
    (tmp_path / "json.py").write_text("raise SystemExit('it is Python's that is meant')\n")
    start = tmp_path / "run-web-vm"
    start.write_text("#!/bin/sh\n")
    start.chmod(0o755)
    (tmp_path / "test.toml").write_text(
        'script = "test.py"\n[nodes.web]\nstart_command = "run-web-vm"\nvlans = []\n'
    )
    script = tmp_path / "test.py"
    script.write_text("import sizes\nassert sizes.double(2) == 4, f'wrong'\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = attest("run", "--check", tmp_path / "test.toml", cwd=elsewhere)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "test.py: no errors, 1 warning\n" in result.stderr
    script.write_text("import sizes\nsizes.double('2')\nsizes.halve(2)\n")
    result = attest("check", script, cwd=elsewhere)
    codes = [line.rpartition("[")[2] for line in result.stdout.splitlines()]
    assert codes == ["arg-type]", "attr-defined]"]


def test_a_run_without_a_check_imports_nothing_for_it() -> None:
    code = "import sys, attest.cli.run; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"attest.check", "mypy", "pyflakes"} & set(modules)


@pytest.mark.parametrize("manifest", EXAMPLES, ids=lambda path: path.parent.name)
def test_the_examples_are_right(manifest: Path) -> None:
    result = attest("check", manifest, cwd=ROOT)
    assert result.returncode == 0, result.stdout

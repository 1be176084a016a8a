"""What users install: the wheel, built from the source distribution, works by itself."""

import itertools
import os
import re
import stat
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from build_programs import ARCHITECTURES, PROGRAMS, Program, build_programs

ROOT = Path(__file__).parents[2]

ELF_MACHINE = {"x86_64": 62, "aarch64": 183}


def run(*command: str | Path, cwd: Path) -> str:
    result = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution, and the wheel that was built from it and from nothing else."""
    path = tmp_path_factory.mktemp("dist")
    build = ["-m", "build", "--no-isolation", "--outdir", str(path), str(ROOT)]
    run(sys.executable, *build, cwd=path)
    return path


@pytest.fixture(scope="module")
def python(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and what it depends on."""
    (wheel,) = dist.glob("*.whl")
    environment = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", environment, cwd=environment)
    python = environment / "bin/python"
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=environment)
    return python


# The first compilation for an architecture compiles a C library too.
@pytest.mark.timeout(600)
def test_the_wheel_runs_outside_the_checkout(python: Path, tmp_path: Path) -> None:
    version = run(python, "-c", "import attest; print(attest.__version__)", cwd=tmp_path).strip()
    printed = run(python.parent / "attest", "--version", cwd=tmp_path)
    assert printed == f"attest, version {version}\n"
    assert '"$defs"' in run(python.parent / "attest", "schema", cwd=tmp_path)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_the_wheel_carries_the_programs(
    python: Path, tmp_path: Path, program: Program, architecture: str
) -> None:
    package = Path(run(python, "-c", "import attest; print(attest.__file__)", cwd=tmp_path)).parent
    directory = package.parent / Path(program.target).relative_to("src")
    binary = directory / f"{program.name}-{architecture}"
    assert binary.stat().st_mode & stat.S_IXUSR
    assert int.from_bytes(binary.read_bytes()[18:20], "little") == ELF_MACHINE[architecture]


@pytest.mark.timeout(600)
def test_the_wheel_finds_the_programs(python: Path, tmp_path: Path) -> None:
    machine = os.uname().machine
    code = f"from attest.guest.agent.binary import *; print(agent_binary('{machine}'))"
    agent = Path(run(python, "-c", code, cwd=tmp_path).strip())
    assert agent.is_relative_to(python.parents[1])
    assert run(agent, "--version", cwd=tmp_path).startswith("attest-agent ")
    code = "from attest.vmm.firecracker.uffd import uffd_binary; print(uffd_binary())"
    assert Path(run(python, "-c", code, cwd=tmp_path).strip()).is_relative_to(python.parents[1])


@pytest.mark.timeout(600)
def test_the_source_distribution_holds_sources_only(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md"} <= names
    assert {f"{program.source}/src/main.c" for program in PROGRAMS} <= names
    assert {f"{each.source}/{each.carried}" for each in PROGRAMS if each.carried} <= names
    assert not [name for name in names if "/bin/" in name or "/build/" in name]


def ready_programs(directory: Path, architectures: Sequence[str]) -> None:
    """Fill a directory as a distribution does that compiles the programs itself."""
    directory.mkdir()
    for program, architecture in itertools.product(PROGRAMS, architectures):
        name = f"{program.name}-{architecture}"
        (directory / name).write_text(name)


@pytest.mark.parametrize("architectures", [ARCHITECTURES, ARCHITECTURES[1:]])
def test_programs_compiled_elsewhere_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architectures: Sequence[str]
) -> None:
    ready_programs(tmp_path / "ready", architectures)
    monkeypatch.setenv("ATTEST_AGENT_DIR", str(tmp_path / "ready"))
    build_programs(tmp_path)
    for program in PROGRAMS:
        binaries = list((tmp_path / program.target).iterdir())
        assert {binary.name for binary in binaries} == {
            f"{program.name}-{architecture}" for architecture in architectures
        }
        for binary in binaries:
            assert binary.read_text() == binary.name
            assert os.access(binary, os.X_OK)


def test_programs_compiled_elsewhere_have_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready_programs(tmp_path / "ready", ARCHITECTURES)
    for architecture in ARCHITECTURES:
        (tmp_path / "ready" / f"{PROGRAMS[1].name}-{architecture}").unlink()
    monkeypatch.setenv("ATTEST_AGENT_DIR", str(tmp_path / "ready"))
    with pytest.raises(SystemExit, match="has to hold attest-agent-ARCHITECTURE and attest-uffd-"):
        build_programs(tmp_path)


def sources(root: Path, text: str) -> list[Path]:
    """Give each program a source, and return where its binary for this host will be."""
    for program in PROGRAMS:
        for name in ("src/main.c", program.carried):
            if name:
                source = root / program.source / name
                source.parent.mkdir(parents=True, exist_ok=True)
                source.write_text(text)
    mine = os.uname().machine
    return [root / program.target / f"{program.name}-{mine}" for program in PROGRAMS]


def test_programs_are_compiled_again_only_when_their_sources_have_changed(tmp_path: Path) -> None:
    binaries = sources(tmp_path, "int main(void) { return 7; }\n")
    mine = os.uname().machine
    build_programs(tmp_path, [mine])
    first = [binary.stat().st_ino for binary in binaries]
    build_programs(tmp_path, [mine])
    assert [binary.stat().st_ino for binary in binaries] == first
    sources(tmp_path, "int main(void) { return 8; }\n")
    build_programs(tmp_path, [mine])
    assert [subprocess.call([binary]) for binary in binaries] == [8] * len(binaries)


def test_a_program_is_compiled_again_when_what_it_carries_has_changed(tmp_path: Path) -> None:
    mine = os.uname().machine
    (program,) = (program for program in PROGRAMS if program.carried)
    carries = (
        "const char object[] = {\n#include FORK_OBJECT\n};\n"
        "int main(int count, char **words) { return words[0][0] == object[count]; }\n"
    )
    sources(tmp_path, "int main(void) { return 7; }\n")
    (tmp_path / program.source / "src/main.c").write_text(carries)
    build_programs(tmp_path, [mine])
    binary = tmp_path / program.target / f"{program.name}-{mine}"
    first = binary.read_bytes()
    assert first.count(b"\x7fELF") == 2
    (tmp_path / program.source / program.carried).write_text("int number = 8;\n")
    build_programs(tmp_path, [mine])
    assert binary.read_bytes() != first


def test_a_program_that_does_not_compile_ends_the_build(tmp_path: Path) -> None:
    binaries = sources(tmp_path, "int main(void) { int unused; return 0; }\n")
    with pytest.raises(SystemExit, match="does not compile"):
        build_programs(tmp_path, [os.uname().machine])
    assert os.listdir(binaries[0].parent) == []


def test_every_dependency_is_locked_with_hashes_and_without_a_host() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for lock, wanted in {
        "run": project["dependencies"],
        "dev": project["dependencies"] + project["optional-dependencies"]["dev"],
        "check": project["optional-dependencies"]["check"],
        "build": (ROOT / "requirements/build.in").read_text().split(),
        "kvm": project["dependencies"] + (ROOT / "requirements/kvm.in").read_text().split(),
    }.items():
        text = (ROOT / f"requirements/{lock}.txt").read_text()
        entries = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
        locked = {entry.partition("==")[0] for entry in entries}
        names = {re.split("[<>=]", name)[0].replace(".", "-") for name in wanted}
        assert names <= locked
        assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
        assert "://" not in text


def test_the_locked_compiler_is_the_one_that_the_wheel_is_built_with() -> None:
    hook = (ROOT / "hatch_build.py").read_text()
    (compiler,) = re.findall(r'^COMPILER = "(.*)"$', hook, re.MULTILINE)
    assert f"{compiler} \\" in (ROOT / "requirements/build.txt").read_text().splitlines()

"""The programs in C: what their modules know of each other, and how their functions are called."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from build_programs import PROGRAMS, Program

ROOT = Path(__file__).parents[2]
GCC = ["gcc", "-std=c11", "-D_GNU_SOURCE", '-DFORK_OBJECT="/dev/null"', "-c"]
INCLUDE = re.compile(r'^#include "(\w+)\.h"', re.MULTILINE)
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
GIVEN_NAMES = {"main", "LLVMFuzzerTestOneInput"}


@dataclass(frozen=True)
class Object:
    """What a compiled file consists of, by the names of its symbols."""

    functions: set[str]
    offered: set[str]  # to other files
    used: set[str]  # of other files


@dataclass(frozen=True)
class Compiled:
    """The files of a program: its modules, and what is in other directories."""

    source: Path
    modules: dict[str, Object]
    others: dict[str, Object]


@pytest.fixture(scope="module", params=PROGRAMS, ids=lambda program: program.name)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    program: Program = request.param
    work = tmp_path_factory.mktemp(program.name)
    directory = ROOT / program.source
    found: dict[str, dict[str, Object]] = {}
    for source in {path.parent for path in directory.glob("*/*.c")}:
        found[source.name] = compile_files(source, directory / "src", work / source.name)
    modules = found.pop("src")
    others = {name: each for objects in found.values() for name, each in objects.items()}
    return Compiled(directory / "src", modules, others)


def compile_files(directory: Path, headers: Path, work: Path) -> dict[str, Object]:
    """Compile the files of a directory, without the optimisations that take functions away."""
    work.mkdir()
    files = sorted(directory.glob("*.c"))
    subprocess.run([*GCC, f"-I{headers}", *files], cwd=work, check=True)
    return {path.stem: read_object(path) for path in work.glob("*.o")}


def read_object(path: Path) -> Object:
    listed = subprocess.run(["nm", "-P", path], capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[:2] for line in listed.splitlines()]
    return Object(
        functions={name for name, kind in symbols if kind in "Tt"},
        offered={name for name, kind in symbols if kind.isupper() and kind != "U"},
        used={name for name, kind in symbols if kind == "U"},
    )


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Some circle of a graph, from one of its nodes to itself; empty when there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_modules_know_each_other_in_one_direction_only(compiled: Compiled) -> None:
    homes = {name: module for module, each in compiled.modules.items() for name in each.offered}
    graph: dict[str, set[str]] = {path.stem: set() for path in compiled.source.glob("*.[ch]")}
    for path in compiled.source.glob("*.[ch]"):
        graph[path.stem] |= set(INCLUDE.findall(path.read_text())) - {path.stem}
    for module, each in compiled.modules.items():
        graph[module] |= {homes[name] for name in each.used if name in homes}
    assert graph["main"]
    assert circle(graph) == []


def test_what_a_module_offers_is_in_its_own_header_alone(compiled: Compiled) -> None:
    words = {
        path.stem: set(re.findall(r"\w+", COMMENT.sub("", path.read_text())))
        for path in compiled.source.glob("*.h")
    }
    homes = {
        name: module
        for module, each in compiled.modules.items()
        for name in each.offered - GIVEN_NAMES
    }
    assert homes
    assert {name: [module] for name, module in homes.items()} == {
        name: [header for header in words if name in words[header]] for name in homes
    }


def test_functions_have_names_of_more_than_one_word(compiled: Compiled) -> None:
    files = [*compiled.modules.values(), *compiled.others.values()]
    names = {name for each in files for name in each.functions}
    assert "main" in names
    assert [name for name in sorted(names - GIVEN_NAMES) if "_" not in name] == []

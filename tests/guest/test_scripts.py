"""Scripts as NixOS's tests have them, run by the command on Debian machines with real daemons."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
NODES = tomllib.loads((SCRIPTS / "nodes.toml").read_text())


def test_each_script_has_its_machines() -> None:
    assert {path.stem for path in SCRIPTS.glob("*.py")} == set(NODES)


@pytest.mark.parametrize("name", NODES)
@pytest.mark.timeout(300)
def test_a_script_passes(name: str, tmp_path: Path) -> None:
    image = str(SCRIPTS / "services.toml")
    nodes = {node: {"image": image, **keys} for node, keys in NODES[name].items()}
    manifest = {"name": name, "script": str(SCRIPTS / f"{name}.py"), "nodes": nodes}
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(manifest))
    command = [sys.executable, "-m", "attest", "run", "--check", "--accel", "tcg", file]
    result = subprocess.run(
        [*command, "--out", tmp_path / "out"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert f"{name}: passed" in result.stderr

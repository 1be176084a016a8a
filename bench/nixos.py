"""The workloads as NixOS's own driver has its tests: start scripts, and the backdoor shell.

`Nixos` runs the real driver. `Baseline` runs attest in its way, where there is no real one: each
machine boots, commands go one by one through the shell, and what is waited for is looked at once a
second; machines are what start scripts make them, and nothing is shared.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import start_scripts

from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
from attest.manifest import Manifest, load_manifest
from attest.support.paths import cache_dir
from bench import driver_python
from bench.figures import environment
from bench.runs import Home, Run, timed

__all__ = ["Baseline", "Nixos"]

_REQUIREMENTS = ("colorama", "ipython", "junit-xml", "ptpython", "pydantic", "remote-pdb")
"""What NixOS's driver imports."""

_MAIN = "import sys; from test_driver import main; sys.exit(main())"

_OWN_NETWORK = (
    "unshare", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")), "--net",
)  # fmt: skip
"""NixOS's driver makes interfaces where it is."""


def _write_scripts(test: Manifest, directory: Path) -> dict[str, Path]:
    names = sorted(test.nodes)
    scripts = {}
    for number, name in enumerate(names, 1):
        node = test.nodes[name]
        guest = ImageStore().build(load_recipe(node.image, relative_to=Path(test.directory)))
        scripts[name] = start_scripts.write(
            directory, name, number, node.vlans, guest=guest, memory=node.memory, nodes=names,
            tuned=False,
        )  # fmt: skip
    return scripts


class Nixos:
    """NixOS's driver.

    Args:
        checkout: Its directory, ``nixos/lib/test-driver`` of a nixpkgs.
    """

    name = "nixos"

    def __init__(self, checkout: Path) -> None:
        if not (checkout / "src" / "test_driver").is_dir():
            sys.exit(f"--nixos-driver: {checkout} has no src/test_driver")
        if shutil.which("vde_switch") is None:
            sys.exit("--nixos-driver: NixOS's driver needs `vde_switch`: apt-get install vde2")
        self._source = (checkout / "src").resolve()
        self._python = self._environment(driver_python.choose(checkout))
        driver_python.require_import(self._python, checkout)

    def _environment(self, found: driver_python.Python) -> Path:
        """That Python with what the driver imports, kept in the cache."""
        place = cache_dir() / "nixos-driver" / str(found.version)
        python = place / "bin" / "python"
        if not (place / "complete").exists():
            subprocess.run([found.path, "-m", "venv", "--clear", place], check=True)
            install = [str(python), "-m", "pip", "install", "--quiet", *_REQUIREMENTS]
            subprocess.run(install, check=True)
            (place / "complete").touch()
        return python

    def run(self, manifest: Path) -> Run:
        """Run a test.

        The driver is told by its configuration file, as since NixOS 26.05.
        """
        test = load_manifest(manifest)
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            place = Path(directory)
            scripts = _write_scripts(test, place)
            configuration = place / "driver.json"
            vms = {name: {"name": name, "start_script": str(path)}
                   for name, path in scripts.items()}  # fmt: skip
            configuration.write_text(
                json.dumps(
                    {"vms": vms, "containers": {}, "vlans": test.all_vlans(),
                     "global_timeout": 3600, "enable_ssh_backdoor": False,
                     "test_script": str(manifest.parent / test.script)}
                )
            )  # fmt: skip
            command = [str(self._python), "-c", _MAIN, "--config", str(configuration), "-o", "."]
            env = environment(place) | {"PYTHONPATH": str(self._source), "TMPDIR": directory}
            env.pop("XDG_RUNTIME_DIR", None)
            return timed([*_OWN_NETWORK, *command], env, place)


class Baseline:
    """Attest in the way of NixOS's driver.

    Args:
        home: Its cache, which it does not use.
    """

    name = "baseline"

    def __init__(self, home: Home) -> None:
        self._home = home

    def run(self, manifest: Path) -> Run:
        """Run a test."""
        test = load_manifest(manifest)
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            place = Path(directory)
            scripts = _write_scripts(test, place)
            return timed(
                [sys.executable, "-m", "bench.nixos_ways", "-o", directory,
                 "--vlans", *map(str, test.all_vlans()),
                 "--start-scripts", *map(str, scripts.values()),
                 "--", str((manifest.parent / test.script).resolve())],
                self._home.environment,
            )  # fmt: skip

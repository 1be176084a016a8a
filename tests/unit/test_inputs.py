"""The files that a test is made of, also where what names them is wrong."""

from __future__ import annotations

import json
from pathlib import Path

from attest.cluster.inputs import machine_files, script_file


def _write(directory: Path, **files: str) -> None:
    for name, text in files.items():
        (directory / name.replace("_", ".")).write_text(text)


def test_all_that_a_manifest_names_is_found(tmp_path: Path) -> None:
    _write(
        tmp_path,
        test_toml='script = "t.py"\ndefaults.image = "a.toml"\n'
        'nodes.one.files."/x" = "x"\nnodes."n{1..2}".image = "d.json"\n'
        'nodes.one.disks = [{ image = "disk" }, { size = 3 }]\nnodes.two.start_command = "run"\n',
        a_toml='base = "b.toml"\nfiles."/y" = "y"\nfiles."/z" = { source = "../z" }\n'
        'files."/t".text = "t"\n',
        b_toml='base = "a.toml"\n',
        d_json=json.dumps({"kernel": "/k", "initrd": "i"}),
    )
    manifest = tmp_path / "test.toml"
    assert script_file(manifest) == tmp_path / "t.py"
    relative = ["test.toml", "a.toml", "b.toml", "d.json", "x", "y", "../z", "disk", "run", "i"]
    assert machine_files(manifest) == {*(tmp_path / each for each in relative), Path("/k")}


def test_built_in_images_have_no_files(tmp_path: Path) -> None:
    _write(tmp_path, test_toml='script = "pass"\nnodes.one.image = "tiny"\n')
    assert script_file(tmp_path / "test.toml") is None
    assert machine_files(tmp_path / "test.toml") == {tmp_path / "test.toml"}


def test_what_is_wrong_names_what_it_can(tmp_path: Path) -> None:
    manifest = tmp_path / "test.toml"
    assert machine_files(manifest) == {manifest}
    for wrong in ("[nodes", "nodes = 3", "nodes.a = 3\ndefaults = []", 'nodes.a.files = ["x"]'):
        manifest.write_text(wrong)
        assert manifest in machine_files(manifest)
        assert script_file(manifest) is None
    manifest.write_text('nodes.a = { imgae = "?", image = "r.toml", disks = 3 }\nscript = 3\n')
    (tmp_path / "r.toml").write_text("base = [")
    assert machine_files(manifest) == {manifest, tmp_path / "r.toml"}

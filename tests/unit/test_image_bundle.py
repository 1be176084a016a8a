"""Bundles, of a store with small contents; `tests/guest/test_bundle.py` boots what was in one."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from attest.cli.command import _attest
from attest.errors import HostError, UsageError
from attest.image.bundle import bundle_key, read_bundle, write_bundle
from attest.image.content import Content
from attest.image.recipe import Recipe, load_recipe
from attest.image.store import ImageStore
from attest.support.concurrency import wait_all
from attest.support.polling import tries

ROOT = 1 << 20
IMPORTER = """
import sys
from pathlib import Path
from attest.image.bundle import read_bundle
from attest.image.store import ImageStore
read_bundle(Path(sys.argv[1]), ImageStore(Path(sys.argv[2])))
"""

Index = dict[str, Any]


def put(store: ImageStore, directory: Path, name: str) -> Recipe:
    """A recipe, and in the store a small content that it is said to have led to."""
    path = directory / f"{name}.toml"
    path.write_text(f'base = "tiny"\nfiles."/name" = {{ text = "{name}" }}\n')
    recipe = load_recipe(str(path))
    digest = hashlib.sha256(name.encode()).hexdigest()
    content = store.directory / "contents" / digest
    content.mkdir(parents=True)
    (content / "vmlinuz").write_text("a kernel")
    (content / "vmlinux").write_text("a kernel, uncompressed")
    (content / "initrd.base").write_text(f"the initrd of {name}")
    with (content / "root.ext4").open("wb") as root:
        root.write(name.encode())
        root.truncate(ROOT)
    described = Content(digest, "6.1.0", [])
    (content / "content.json").write_bytes(msgspec.json.encode(described))
    (store.directory / "inputs").mkdir(exist_ok=True)
    (store.directory / "inputs" / recipe.key()).symlink_to(content)
    return recipe


@pytest.fixture
def full(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "full")


@pytest.fixture
def empty(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "empty")


@pytest.fixture
def recipes(full: ImageStore, tmp_path: Path) -> list[Recipe]:
    """Two, whose contents are in the full store; their kernel is the same."""
    return [put(full, tmp_path, "web"), put(full, tmp_path, "client")]


@pytest.fixture
def bundle(full: ImageStore, recipes: list[Recipe], tmp_path: Path) -> Path:
    write_bundle(tmp_path / "images.zst", recipes, full)
    return tmp_path / "images.zst"


def unpacked(bundle: Path) -> tuple[Index, bytes]:
    """A bundle's index, and what follows it."""
    line, _, data = subprocess.run(
        ["zstd", "-dc", bundle], capture_output=True, check=True
    ).stdout.partition(b"\n")
    return json.loads(line), data


def pack(bundle: Path, index: Index, data: bytes) -> None:
    subprocess.run(
        ["zstd", "-qfo", bundle], input=json.dumps(index).encode() + b"\n" + data, check=True
    )


def kept(store: ImageStore) -> set[Path]:
    """All files and links of a store."""
    return {path for path in store.directory.glob("**/*") if not path.is_dir() or path.is_symlink()}


def content(store: ImageStore, recipe: Recipe) -> Path:
    return (store.directory / "inputs" / recipe.key()).resolve()


# There and back


def test_what_was_exported_is_found_where_it_was_imported(
    full: ImageStore, empty: ImageStore, bundle: Path, recipes: list[Recipe]
) -> None:
    done = read_bundle(bundle, empty)
    assert [(each.image.name, each.new) for each in done] == [("web", True), ("client", True)]
    for recipe, each in zip(recipes, done, strict=True):
        assert empty.built(recipe) == each.image
        assert each.image.digest == full.build(recipe).digest
        ours, theirs = content(empty, recipe), content(full, recipe)
        assert {path.name: path.read_bytes() for path in ours.iterdir()} == {
            path.name: path.read_bytes() for path in theirs.iterdir()
        }


def test_holes_stay_holes_and_what_is_the_same_is_there_once(
    empty: ImageStore, bundle: Path, recipes: list[Recipe]
) -> None:
    read_bundle(bundle, empty)
    web, client = (content(empty, recipe) for recipe in recipes)
    assert (web / "root.ext4").stat().st_size == ROOT
    assert (web / "root.ext4").stat().st_blocks * 512 < ROOT / 4
    assert (web / "vmlinux").samefile(client / "vmlinux")
    index, data = unpacked(bundle)
    assert len(index["files"]) == 8  # of ten
    assert sum(each["size"] for each in index["files"]) == len(data)


def test_what_is_there_is_kept(empty: ImageStore, bundle: Path) -> None:
    read_bundle(bundle, empty)
    before = kept(empty)
    assert [each.new for each in read_bundle(bundle, empty)] == [False, False]
    assert kept(empty) == before


def test_what_is_missing_comes_beside_what_is_there(
    full: ImageStore, empty: ImageStore, recipes: list[Recipe], bundle: Path, tmp_path: Path
) -> None:
    one = tmp_path / "one.zst"
    write_bundle(one, recipes[:1], full)
    read_bundle(one, empty)
    assert [each.new for each in read_bundle(bundle, empty)] == [False, True]
    assert all(empty.built(recipe) for recipe in recipes)


def test_the_same_images_make_the_same_bundle(
    full: ImageStore, recipes: list[Recipe], bundle: Path, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "again.zst", [*recipes, *recipes], full)
    assert (tmp_path / "again.zst").read_bytes() == bundle.read_bytes()


def test_several_may_import_at_once(empty: ImageStore, bundle: Path, recipes: list[Recipe]) -> None:
    done = wait_all(range(4), lambda _: read_bundle(bundle, empty))
    assert sorted([each.new for each in some] for some in done) == [[False] * 2] * 3 + [[True] * 2]
    assert all(empty.built(recipe) for recipe in recipes)


def test_images_that_are_removed_meanwhile_are_exported(
    full: ImageStore, empty: ImageStore, recipes: list[Recipe], tmp_path: Path
) -> None:
    def removing() -> Iterator[Recipe]:
        yield recipes[0]
        full.remove(full.find("web"))
        yield recipes[1]

    write_bundle(tmp_path / "images.zst", removing(), full)
    assert len(read_bundle(tmp_path / "images.zst", empty)) == 2
    full.gc(max_age=0)
    assert not content(full, recipes[0]).exists()  # nobody holds it any more


# What is no bundle, or a bad one

Harm = Callable[[Index, bytes], tuple[Index, bytes]]


def _changed(path: str, value: object) -> Harm:
    """The value at a path of the index; of tables ``*`` is the first."""

    def harm(index: Index, data: bytes) -> tuple[Index, bytes]:
        *above, last = path.split("/")
        table: Any = index
        for key in above:
            table = table[next(iter(table)) if key == "*" else int(key) if key.isdigit() else key]
        table[last] = value
        return index, data

    return harm


def _named(name: str) -> Harm:
    """A content with a file of that name."""

    def harm(index: Index, data: bytes) -> tuple[Index, bytes]:
        names = next(iter(index["contents"].values()))
        names[name] = names["vmlinuz"]
        return index, data

    return harm


def _placed(digest: str) -> Harm:
    """A content in another place, and its image's."""

    def harm(index: Index, data: bytes) -> tuple[Index, bytes]:
        old = index["images"][0]["image"]["layer"]
        index["images"][0]["image"]["layer"] = digest
        index["contents"][digest] = index["contents"].pop(old)
        return index, data

    return harm


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda index, data: (index, data[:-1]), "is damaged"),
        (lambda index, data: (index, data + b"more"), "is damaged"),
        (lambda index, data: (index, data.replace(b"the initrd of web", b"the InItrd of web")),
         "is damaged"),
        (lambda index, data: ({"format": 1}, data), "none of `attest cache export`"),
        (_changed("format", 2), "another version of attest: format 2, this one reads 1"),
        (_changed("builder", 1), "of attest's builder 1, and this is"),
        (_changed("arch", "m68k"), "are for m68k"),
        (_changed("images/0/key", "../../key"), r"images\[0\].key"),
        (_changed("images/0/image/layer", "0" * 64), "there is no content '0000"),
        (_changed("images/0/image/arch", "m68k"), "'m68k' is no image of this host"),
        (_changed("images/0/image/name", "\x1b[31mweb"), "is no image of this host"),
        (_changed("files/0/sha256", "/etc/passwd"), r"files\[0\].sha256"),
        (_changed("files/0/size", -1), r"files\[0\].size"),
        (_changed("files/0/size", 3), "is damaged"),
        (_changed("contents/*/vmlinux", "0" * 64), "has other files than an image has"),
        (_named("../../../escaped"), "has other files than an image has"),
        (_named("authorized_keys"), "has other files than an image has"),
        (_placed("../../escaped"), "contents"),
        (_placed("0" * 64), "says that it is another"),
    ],
)  # fmt: skip
def test_a_bad_bundle_changes_nothing(
    empty: ImageStore, bundle: Path, tmp_path: Path, harm: Harm, complaint: str
) -> None:
    pack(bundle, *harm(*unpacked(bundle)))
    before = set(tmp_path.iterdir())
    with pytest.raises(UsageError, match=complaint) as caught:
        read_bundle(bundle, empty)
    assert caught.value.message.startswith(str(bundle))
    assert kept(empty) == set()
    assert list((empty.directory).glob("building/*")) == []
    assert set(tmp_path.iterdir()) - {empty.directory} == before


@pytest.mark.parametrize(
    ("data", "complaint"),
    [(b"", "is none of"), (b"text", "unsupported format"), (b"\x28\xb5\x2f\xfd\x04", "is none of")],
)
def test_a_file_that_is_no_bundle(
    empty: ImageStore, tmp_path: Path, data: bytes, complaint: str
) -> None:
    (tmp_path / "images.zst").write_bytes(data)
    with pytest.raises(UsageError, match=complaint):
        read_bundle(tmp_path / "images.zst", empty)
    assert kept(empty) == set()


def test_a_bundle_that_ends_early(empty: ImageStore, bundle: Path) -> None:
    bundle.write_bytes(bundle.read_bytes()[:-8])
    with pytest.raises(UsageError, match=r"is damaged: .*premature|is none of .*premature"):
        read_bundle(bundle, empty)
    assert kept(empty) == set()


def test_a_bundle_that_finds_no_room_is_not_begun(empty: ImageStore, bundle: Path) -> None:
    index, data = unpacked(bundle)
    index["files"][0]["size"] = 1 << 60
    pack(bundle, index, data)
    with pytest.raises(HostError, match=r"its images are 1099511627778 MiB, and \d+ MiB are free"):
        read_bundle(bundle, empty)
    assert kept(empty) == set()


def test_a_store_that_cannot_be_written(bundle: Path) -> None:
    with pytest.raises(HostError, match=r"^/proc/images: cannot be written: "):
        read_bundle(bundle, ImageStore(Path("/proc/images")))


def test_an_import_that_is_killed_leaves_nothing(
    empty: ImageStore, bundle: Path, tmp_path: Path
) -> None:
    index, _ = unpacked(bundle)
    index["files"][0]["size"] = 2 << 20
    half = tmp_path / "half"
    os.mkfifo(half)
    begin = tmp_path / "begin"
    pack(begin, index, os.urandom(1 << 20))
    with subprocess.Popen([sys.executable, "-c", IMPORTER, half, empty.directory]) as importer:
        with half.open("wb") as stream:
            stream.write(begin.read_bytes())
            stream.flush()
            begun = any(any(empty.directory.glob("building/*/*")) for _ in tries(30))
            importer.kill()
        assert begun
    assert any(not any(empty.directory.glob("building/*")) for _ in tries(30))
    assert kept(empty) == set()


# Writing


def test_a_bundle_that_cannot_be_written_leaves_the_one_before(
    full: ImageStore, bundle: Path, recipes: list[Recipe], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before, there = bundle.read_bytes(), set(tmp_path.iterdir())
    programs = tmp_path / "full" / "bin"
    programs.mkdir()
    (programs / "zstd").write_text("#!/bin/sh\nhead -c 9 >&2; echo No space left >&2; exit 70\n")
    (programs / "zstd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with pytest.raises(HostError, match=r"cannot be written: .*No space left"):
        write_bundle(bundle, recipes, full)
    assert bundle.read_bytes() == before
    assert set(tmp_path.iterdir()) == there


def test_another_file_is_not_replaced(
    full: ImageStore, recipes: list[Recipe], tmp_path: Path
) -> None:
    manifest = tmp_path / "test.toml"
    manifest.write_text("[nodes.a]\n")
    with pytest.raises(UsageError, match=r"test.toml: is there, and is none of") as caught:
        write_bundle(manifest, recipes, full)
    assert "attest cache export images.zst test.toml" in caught.value.hint
    assert manifest.read_text() == "[nodes.a]\n"


def test_a_bundle_in_the_place_of_a_directory(
    full: ImageStore, recipes: list[Recipe], tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(HostError, match="there: cannot be written: Is a directory"):
        write_bundle(tmp_path / "there", recipes, full)


def test_a_bundle_where_nobody_may_write(full: ImageStore, recipes: list[Recipe]) -> None:
    with pytest.raises(HostError, match=r"/proc/images.zst: cannot be written: "):
        write_bundle(Path("/proc/images.zst"), recipes, full)


def test_without_zstd_it_is_told_how_to_get_it(
    full: ImageStore, bundle: Path, recipes: list[Recipe], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "bin").mkdir()
    for name in ("sh", "rm"):
        (tmp_path / "bin" / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for call in (lambda: read_bundle(bundle, full), lambda: write_bundle(bundle, recipes, full)):
        with pytest.raises(HostError, match="`zstd` is missing") as caught:
            call()
        assert caught.value.hint == "apt-get install zstd"


# The key


def test_the_key_changes_with_what_is_built_and_with_nothing_else(
    recipes: list[Recipe], tmp_path: Path
) -> None:
    web, client = recipes
    key = bundle_key(recipes)
    assert bundle_key([client, web, client]) == key
    assert bundle_key([web]) != key
    path = tmp_path / "web.toml"
    as_it_was = path.read_text()
    path.write_text(f'{as_it_was}cmdline = ["audit=0"]\n'.replace("\nfiles", "\nfiles", 1))
    assert bundle_key([load_recipe(str(path)), client]) == key
    path.write_text(as_it_was.replace('"web"', '"another"'))
    assert bundle_key([load_recipe(str(path)), client]) != key


# The commands


@pytest.fixture
def cache(full: ImageStore, recipes: list[Recipe], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which commands find the full store, and a manifest of both recipes."""
    home = full.directory.parent
    (home / "here/attest").mkdir(parents=True)
    (home / "there").mkdir()
    (home / "here/attest/images").symlink_to(full.directory)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "here"))
    (home / "test.toml").write_text(
        '[nodes.a]\nimage = "web.toml"\n[nodes.b]\nimage = "client.toml"\n'
        '[nodes.c]\nimage = "web.toml"\n'
    )
    return home


def attest_cache(*arguments: object) -> Result:
    return CliRunner().invoke(_attest, ["cache", *map(str, arguments)])


def test_the_images_of_a_manifest_travel(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = attest_cache("export", cache / "new/images.zst", cache / "test.toml")
    assert done.exit_code == 0, done.output
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["exported", "web"], ["exported", "client"],
    ]  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "there"))
    for word in ("imported", "kept"):
        done = attest_cache("import", cache / "new/images.zst")
        assert done.exit_code == 0, done.output
        assert [line.split()[:2] for line in done.stdout.splitlines()] == [
            [word, "web"], [word, "client"],
        ]  # fmt: skip


def test_the_key_of_a_manifest_is_that_of_its_recipes(cache: Path, recipes: list[Recipe]) -> None:
    by_manifest = attest_cache("key", cache / "test.toml")
    by_recipes = attest_cache("key", cache / "client.toml", cache / "web.toml")
    assert by_manifest.stdout == by_recipes.stdout == f"{bundle_key(recipes)}\n"


def test_what_has_no_images_to_carry(cache: Path) -> None:
    manifest = cache / "elsewhere.toml"
    manifest.write_text('[nodes.a]\nstart_command = "run-vm"\n')
    (cache / "run-vm").write_text("#!/bin/sh\n")
    (cache / "run-vm").chmod(0o755)
    (cache / "web.json").write_text(json.dumps({"arch": platform.machine()}))
    for reference, complaint in (
        (manifest, "no node has an image that attest builds"),
        (cache / "web.json", "made elsewhere"),
        ("debain", "no image recipe `debain`"),
    ):
        error = attest_cache("key", reference).exception
        assert isinstance(error, UsageError)
        assert complaint in error.message

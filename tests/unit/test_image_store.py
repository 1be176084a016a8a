from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from attest.errors import ImageBuildError, RecipeError, UsageError
from attest.image.build_space import BuildSpace
from attest.image.model import Image
from attest.image.recipe import Recipe, load_recipe
from attest.image.store import ImageStore
from attest.image.store_files import discard, entries
from attest.support.claims import claimed, locked, sweep
from attest.support.paths import cache_dir

HOLDER = """
import sys
from pathlib import Path
from attest.support.claims import claimed
with claimed(Path(sys.argv[1])) as work:
    (work / "half").write_text("half")
    print("claimed", flush=True)
    sys.stdin.read()
"""
BUILDER = """
import sys
from pathlib import Path
from attest.image.recipe import load_recipe
from attest.image.store import ImageStore
def progress(line):
    print(line, file=sys.stderr, flush=True)
print(ImageStore(Path(sys.argv[1])).build(load_recipe(sys.argv[2]), progress=progress).digest)
"""


@contextmanager
def python(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def holding(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has claimed the directory, until its standard input is closed."""
    with python(HOLDER, str(directory)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "claimed\n"
        yield holder


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """An empty store, but for the packages and their lists that earlier builds have fetched."""
    (tmp_path / "store").mkdir()
    for name in ("packages", "lists"):
        fetched = cache_dir() / "images" / name
        fetched.mkdir(parents=True, exist_ok=True)
        (tmp_path / "store" / name).symlink_to(fetched)
    return ImageStore(tmp_path / "store")


@pytest.fixture(scope="module")
def tiny() -> Image:
    return ImageStore().build(load_recipe("tiny"))


def recipe(directory: Path, name: str, text: str) -> Recipe:
    path = directory / f"{name}.toml"
    path.write_text(text)
    return load_recipe(str(path))


@pytest.fixture
def stocked(store: ImageStore, tiny: Image, tmp_path: Path) -> ImageStore:
    """A store with the content and layers of `tiny` and three images that share them."""
    for place, name in (
        ("contents", tiny.content),
        *(("layers", entry.layer.digest) for entry in ImageStore().history(tiny)),
    ):
        shutil.copytree(
            ImageStore().directory / place / name, store.directory / place / name, symlinks=True
        )
    (store.directory / "inputs").mkdir()
    (store.directory / "inputs" / load_recipe("tiny").key()).symlink_to(
        f"../contents/{tiny.content}"
    )
    for name, cmdline in (("a", "audit=0"), ("b", "audit=1"), ("c", "")):
        text = f'base = "tiny"\ncmdline = {[cmdline] if cmdline else []}'
        store.build(recipe(tmp_path, name, text))
    return store


def names(store: ImageStore) -> set[str]:
    return {image.name for image in store.images()}


def contents(store: ImageStore) -> list[Path]:
    return list(entries(store.directory / "contents"))


def layers(store: ImageStore) -> list[Path]:
    return list(entries(store.directory / "layers"))


# Claims


def test_a_claimed_directory_is_empty_and_goes_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "work/left/behind").mkdir(parents=True)
    with claimed(tmp_path / "work") as work:
        assert list(work.iterdir()) == []
        (work / "file").touch()
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_waits_and_says_so(tmp_path: Path) -> None:
    waited = []
    with holding(tmp_path / "work") as holder:

        def waiting() -> None:
            waited.append((tmp_path / "work/half").exists())
            assert holder.stdin is not None
            holder.stdin.close()

        with claimed(tmp_path / "work", waiting) as work:
            assert waited == [True]
            assert list(work.iterdir()) == []
        assert holder.wait() == 0
    assert not (tmp_path / "work").exists()


def test_what_nobody_holds_is_swept(tmp_path: Path) -> None:
    (tmp_path / "left/behind").mkdir(parents=True)
    assert sweep(tmp_path / "left")
    assert not (tmp_path / "left").exists()
    with holding(tmp_path / "work"):
        assert not sweep(tmp_path / "work")
        assert (tmp_path / "work/half").exists()


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    with holding(tmp_path / "work") as holder:
        holder.kill()
    await_no_guardian(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_the_place_of_a_killed_ones_is_not_touched(tmp_path: Path) -> None:
    with holding(tmp_path / "work") as holder:
        (tmp_path / "work").rename(tmp_path / "gone")
        with claimed(tmp_path / "work") as work:
            (work / "mine").touch()
            holder.kill()
            await_no_guardian(tmp_path, but=1)
            assert (work / "mine").exists()


def await_no_guardian(directory: Path, but: int = 0) -> None:
    """Guardians end a moment after the process that they are for, when that is killed."""
    deadline = time.monotonic() + 30
    while len(still := processes_with(str(directory))) > but:
        assert time.monotonic() < deadline, still
        time.sleep(0.01)


# Steps


def space(tmp_path: Path) -> BuildSpace:
    return BuildSpace(tmp_path / "log", lambda line: None)


def test_a_step_is_root_with_its_own_mounts_and_processes(tmp_path: Path) -> None:
    space(tmp_path).run("looking", ["sh", "-c", "id -u; echo $$; mount -t tmpfs none /mnt"])
    assert (tmp_path / "log").read_text().split() == ["0", "1"]
    assert "none /mnt" not in Path("/proc/self/mounts").read_text()


def test_a_failed_step_shows_command_output_and_log(tmp_path: Path) -> None:
    with pytest.raises(ImageBuildError) as raised:
        space(tmp_path).run("trying", ["sh", "-c", "seq 100; echo no luck >&2; exit 3"])
    text = str(raised.value)
    assert "trying failed with exit code 3" in text
    assert "| no luck" in text
    assert "| 1\n" not in text
    assert str(tmp_path / "log") in text
    assert "1\n2\n" in (tmp_path / "log").read_text()


# Images


def test_an_image_is_complete(tiny: Image) -> None:
    assert tiny.kernel.read_bytes()[0x202:0x206] == b"HdrS"
    assert tiny.vmlinux.read_bytes()[:4] == b"\x7fELF"
    assert tiny.initrd.read_bytes()[:6] == b"070701"
    assert (tiny.root, tiny.init, len(tiny.digest)) == (None, "agent", 64)


def test_the_kernel_is_a_whole_elf_file(tiny: Image) -> None:
    elffile = pytest.importorskip("elftools.elf.elffile")
    with tiny.vmlinux.open("rb") as stream:
        elf = elffile.ELFFile(stream)
        assert elf.header["e_type"] == "ET_EXEC"
        assert elf.get_section_by_name(".text") is not None
        end = max(section["sh_offset"] for section in elf.iter_sections())
    assert end < tiny.vmlinux.stat().st_size


def test_an_unchanged_recipe_builds_nothing(stocked: ImageStore, tmp_path: Path) -> None:
    said: list[str] = []
    again = stocked.build(load_recipe(str(tmp_path / "a.toml")), progress=said.append)
    assert again == stocked.find("a")
    assert said == []


def test_a_store_that_was_given_an_images_parts_builds_it_at_once(
    store: ImageStore, tiny: Image
) -> None:
    ImageStore().give(load_recipe("tiny"), store)
    lines: list[str] = []
    image = store.build(load_recipe("tiny"), progress=lines.append)
    assert image.digest == tiny.digest
    assert lines == [f"built tiny {tiny.digest[:12]}"]  # without any other stage


def test_another_command_line_is_another_image_of_the_same_content(stocked: ImageStore) -> None:
    a, b = stocked.find("a"), stocked.find("b")
    assert (a.cmdline, b.cmdline) == (("audit=0",), ("audit=1",))
    assert a.digest != b.digest
    assert a.content == b.content
    assert a.vmlinux.samefile(b.vmlinux)


def test_find_takes_names_and_beginnings_of_digests(stocked: ImageStore) -> None:
    digest = stocked.find("b").digest
    assert stocked.find(digest).name == stocked.find(digest[:8]).name == "b"
    with pytest.raises(UsageError, match="too short"):
        stocked.find(digest[:3])
    with pytest.raises(UsageError, match=r"no image `web` in .*; there are: a, b, c"):
        stocked.find("web")


def test_find_takes_recipes_paths_as_build_does(stocked: ImageStore, tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    assert stocked.find(str(path)) == stocked.find("b")
    named_alike = tmp_path / "b"
    named_alike.write_text(path.read_text().replace("audit=1", "audit=0"))
    with pytest.raises(UsageError, match=f"no image of {named_alike}, as that is now"):
        stocked.find(str(named_alike))
    built = stocked.build(load_recipe(str(named_alike)))
    assert stocked.find(str(named_alike)).digest == built.digest
    with pytest.raises(UsageError, match="cannot read the recipe"):
        stocked.find(str(tmp_path / "nonesuch.toml"))


def test_an_images_layers_are_told(stocked: ImageStore) -> None:
    kernel, busybox = stocked.history(stocked.find("a"))
    assert kernel.step.startswith("kernel linux-image-cloud")
    assert busybox.step.startswith("busybox-static")
    assert kernel.layer.size > busybox.layer.size > 10**6


def test_what_is_shared_goes_with_its_last_image(stocked: ImageStore) -> None:
    for name in ("a", "b"):
        stocked.remove(stocked.find(name))
    assert names(stocked) == {"c"}
    assert (len(contents(stocked)), len(layers(stocked))) == (1, 2)
    stocked.remove(stocked.find("c"))
    assert contents(stocked) == layers(stocked) == []
    assert stocked.images() == []


def test_gc_removes_what_was_not_used_for_long(stocked: ImageStore) -> None:
    for name in ("a", "b"):
        os.utime(stocked.find(name).path / "image.json", (0, 0))
    assert stocked.find("b").name == "b"  # a use
    assert [image.name for image in stocked.gc(max_age=3600)] == ["a"]
    assert names(stocked) == {"b", "c"}
    assert (len(contents(stocked)), len(layers(stocked))) == (1, 2)


def test_gc_keeps_old_layers_of_what_is_used(stocked: ImageStore) -> None:
    for path in layers(stocked):
        os.utime(path / "layer.json", (0, 0))
    stocked.gc(max_age=3600)
    assert len(layers(stocked)) == 2


def test_gc_removes_what_no_image_has_and_dead_links(stocked: ImageStore) -> None:
    for image in stocked.images():
        os.utime(image.path / "image.json", (0, 0))
    os.utime(contents(stocked)[0] / "content.json", (0, 0))
    kernel, busybox = (entry.layer.digest for entry in stocked.history(stocked.find("a")))
    os.utime(stocked.find("a").path / "image.json", (0, 0))
    os.utime(stocked.directory / "layers" / busybox / "layer.json", (0, 0))
    stocked.gc(max_age=10 * 365 * 24 * 3600)
    assert contents(stocked) == []
    assert [path.name for path in layers(stocked)] == [kernel]  # used a moment ago, by a build
    assert list(entries(stocked.directory / "inputs")) == []


def test_what_a_build_uses_stays(stocked: ImageStore) -> None:
    with locked(contents(stocked)[0], fcntl.LOCK_SH):
        discard(contents(stocked)[0], stocked.directory / "building")
    assert len(contents(stocked)) == 1
    discard(contents(stocked)[0], stocked.directory / "building")
    assert contents(stocked) == []


def test_images_of_a_former_version_are_used_and_removed(stocked: ImageStore) -> None:
    """What is a content now, was in `layers`, under the name `layer.json`."""
    (content,) = contents(stocked)
    for path in layers(stocked):
        discard(path, stocked.directory / "building")
    record = msgspec.json.decode((content / "content.json").read_bytes())
    del record["history"]
    record["packages"] = ["busybox 1.35"]
    (content / "layer.json").write_bytes(msgspec.json.encode(record))
    (content / "content.json").unlink()
    content.rename(stocked.directory / "layers" / content.name)
    image = stocked.find("a")
    assert stocked.packages(image) == ["busybox 1.35"]
    assert stocked.history(image) == []
    stocked.gc()
    assert len(layers(stocked)) == 1
    for name in ("a", "b", "c"):
        stocked.remove(stocked.find(name))
    assert layers(stocked) == []


# Real builds


def test_two_builders_at_once_build_once(store: ImageStore) -> None:
    arguments = (str(store.directory), "tiny")
    with python(BUILDER, *arguments) as first, python(BUILDER, *arguments) as second:
        outputs = [builder.communicate(timeout=100) for builder in (first, second)]
    digests = {stdout.strip() for stdout, _ in outputs}
    assert digests == {image.digest for image in store.images()}
    said = [stderr for _, stderr in outputs]
    assert sum("2/2 busybox" in text for text in said) == 1
    assert any("waiting for another build that" in text for text in said)
    assert list((store.directory / "building").iterdir()) == []


@contextmanager
def building_debian(store: ImageStore) -> Iterator[subprocess.Popen[str]]:
    """A builder in the middle of its work."""
    with python(BUILDER, str(store.directory), "debian") as builder:
        assert builder.stderr is not None
        while "extracting archives" not in (line := builder.stderr.readline()):
            assert line, "the build ended before it could be disturbed"
        assert processes_with(str(store.directory / "building"))
        yield builder


def test_a_killed_builder_leaves_nothing(store: ImageStore) -> None:
    with building_debian(store) as builder:
        builder.kill()
    await_no_guardian(store.directory / "building")
    assert store.images() == []
    assert contents(store) == []
    assert list((store.directory / "building").iterdir()) == []


def test_an_interrupted_builder_leaves_nothing(store: ImageStore) -> None:
    with building_debian(store) as builder:
        builder.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in builder.communicate()[1]
    assert processes_with(str(store.directory / "building")) == []
    assert list((store.directory / "building").iterdir()) == []
    assert contents(store) == []


def processes_with(word: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line:
            found.append(line)
    return found


def test_what_is_not_there_is_told_before_anything_is_built(
    store: ImageStore, tmp_path: Path
) -> None:
    for text, words in (
        ('kernel = "linux-image-of-nobody"', "kernel: no package `linux-image-of-nobody` in"),
        ('modules = ["virtio_bulk"]', "has no module `virtio_bulk`"),
    ):
        wrong = recipe(tmp_path, "wrong", f'base = "tiny"\n{text}')
        said: list[str] = []
        with pytest.raises(RecipeError, match=rf"wrong\.toml: .*{words}"):
            store.build(wrong, progress=said.append)
        assert not any("busybox" in line for line in said)
    assert list((store.directory / "building").iterdir()) == []
    assert contents(store) == []


def test_a_failed_build_keeps_its_log_and_nothing_else(store: ImageStore, tmp_path: Path) -> None:
    wrong = recipe(tmp_path, "wrong", 'base = "tiny"\nsuite = "of-nobody"')
    with pytest.raises(ImageBuildError) as raised:
        store.build(wrong)
    assert "of-nobody" in raised.value.output
    assert Path(raised.value.log).exists()
    assert list((store.directory / "building").iterdir()) == []
    assert layers(store) == contents(store) == []

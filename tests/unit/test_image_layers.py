"""Layers and steps, on trees of a few files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from attest.image.build_space import BuildSpace
from attest.image.layer import Layer, visible
from attest.image.recipe import Recipe, load_recipe
from attest.image.steps import steps_of
from attest.image.tree import Workplace, overlays_work
from attest.support.claims import remove
from attest.support.user_namespace import namespaces

EPOCH = 1_000_000_000


def layer(digest: str, whole: bool = False) -> Layer:
    return Layer(digest, whole, EPOCH, 0, 0.0, 0.0)


class Maker:
    """Makes layers, each on top of those before it."""

    def __init__(self, directory: Path, overlay: bool) -> None:
        self.directory = directory
        self.overlay = overlay
        self.trees = [directory / "empty"]
        self.space = BuildSpace(directory / "log", lambda line: None)
        self._names = map(str, count())
        self.trees[0].mkdir()

    def make(self, script: str) -> str:
        """Another layer; its digest."""
        place = self.place()
        place.change("changing", f'cd "$root"\n{script}')
        digest, _ = place.finish(EPOCH)
        tree = place.out / "tree"
        self.trees = [*self.trees, tree] if self.overlay else [tree]
        return digest

    def place(self) -> Workplace:
        work = self.directory / next(self._names)
        work.mkdir()
        return Workplace(work, self.trees, self.overlay, self.space)

    def look(self) -> list[str]:
        """Each file of all layers together: path, mode, and time of change."""
        place = self.place()
        place.look("looking", f'cd "$root"; find . -printf "%p %m %T@\\n" > {self.directory}/list')
        return sorted((self.directory / "list").read_text().replace(".0000000000", "").splitlines())


@pytest.fixture(params=[True, False], ids=["overlay", "copies"])
def maker(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    if request.param and not overlays_work(tmp_path):
        pytest.skip("overlayfs cannot be mounted here")
    maker = Maker(tmp_path, request.param)
    maker.make("mkdir a b; echo 1 > a/one; echo 2 > a/two; echo 3 > b/three")
    return maker


def test_layers_are_seen_as_one_tree(maker: Maker) -> None:
    maker.make("rm a/one; echo new > a/two; chmod 600 a/two; rm -r b; mkdir b; touch b/four")
    maker.make('[ "$(cat a/two)" = new ]; [ ! -e a/one ]; [ ! -e b/three ]; touch five')
    assert maker.look() == [
        f". 755 {EPOCH}",
        f"./a 755 {EPOCH}",
        f"./a/two 600 {EPOCH}",
        f"./b 755 {EPOCH}",
        f"./b/four 644 {EPOCH}",
        f"./five 644 {EPOCH}",
    ]


def test_what_is_below_a_layer_stays(maker: Maker) -> None:
    below = maker.trees[-1]
    maker.make("rm -r a; echo 4 > b/three")
    assert (below / "a/one").read_text() == "1\n"
    assert (below / "b/three").read_text() == "3\n"


def test_equal_changes_make_equal_layers_at_any_time(tmp_path: Path) -> None:
    digests = []
    for name, umask in (("first", 0o022), ("second", 0o077)):
        (tmp_path / name).mkdir()
        before = os.umask(umask)
        try:
            maker = Maker(tmp_path / name, overlay=False)
            maker.make("mkdir a; touch a/one")
            digests.append(maker.make("rm a/one; echo 2 > a/two"))
        finally:
            os.umask(before)
        assert f". 755 {EPOCH}" in maker.look()
    assert len(set(digests)) == 1


@pytest.mark.parametrize(
    "script",
    ["echo 3 > a/two", "echo 2 > a/three", "chmod 600 a/two", "ln -s b a/link", "rm a/one"],
)
def test_every_difference_makes_another_layer(maker: Maker, script: str) -> None:
    below = list(maker.trees)
    without = maker.make("true")
    maker.trees = below
    assert maker.make(script) != without


def test_a_layer_keeps_what_is_older_than_its_packages(maker: Maker) -> None:
    maker.make("touch --date=@5 old")
    assert f"./old 644 {5}" in maker.look()


def test_a_stack_begins_with_its_last_whole_layer() -> None:
    kernel, base, files = layer("kernel"), layer("base"), layer("files")
    assert list(visible([kernel, base, files])) == [kernel, base, files]
    whole = layer("whole", whole=True)
    assert list(visible([kernel, base, whole, files])) == [whole, files]


def test_an_overlay_is_no_place_for_overlays(tmp_path: Path) -> None:
    script = """
        cd "$1" && mkdir lower upper work root
        options=lowerdir=lower,upperdir=upper,workdir=work,userxattr
        mount -t overlay overlay root -o "$options" || exit
        exec "$2" -c "
from pathlib import Path
from attest.image.tree import overlays_work
print(overlays_work(Path('root')))"
    """
    command = [*namespaces(), "sh", "-c", script, "sh", str(tmp_path), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "overlay" in done.stderr:
        pytest.skip("overlayfs cannot be mounted here")
    assert (done.stdout, done.stderr) == ("False\n", "")


# Steps


def recipe(directory: Path, text: str, name: str = "web") -> Recipe:
    path = directory / f"{name}.toml"
    path.write_text(text)
    return load_recipe(str(path))


RECIPE = """
base = "debian"
packages = ["nginx", "curl"]
mask = ["nginx.service"]
run = ["first", "second  &&\\n third"]
files."/etc/a" = { text = "a" }
files."/etc/b" = { text = "b", after_run = true }
"""


def texts(of: Recipe) -> list[str]:
    return [step.text for step in steps_of(of)]


def test_steps_come_in_order(tmp_path: Path) -> None:
    assert texts(recipe(tmp_path, RECIPE))[2:] == [
        "packages nginx, curl",
        "files /etc/a, mask nginx.service",
        "run first",
        "run second && third",
        "files /etc/b",
    ]


def test_a_recipe_comes_on_top_of_its_base(tmp_path: Path) -> None:
    below = texts(recipe(tmp_path, RECIPE))
    own = texts(recipe(tmp_path, 'base = "web.toml"\npackages = ["vim"]\nrun = ["third"]', "own"))
    assert own == [*below, "packages vim", "run third"]


def test_the_base_has_nothing_of_the_recipes(tmp_path: Path) -> None:
    one = steps_of(recipe(tmp_path, RECIPE))[:2]
    other = steps_of(recipe(tmp_path, 'base = "debian"\nmodules = ["dm-mod"]'))[:2]
    assert [step.inputs for step in one] == [step.inputs for step in other]
    assert all(step.alone for step in one)


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ('"curl"', '"wget"', 2),
        ('text = "a"', 'text = "c"', 3),
        ('text = "a"', 'text = "a", mode = "0600"', 3),
        ("nginx.service", "cron.service", 3),
        ('"first"', '"other"', 4),
        ("third", "fourth", 5),
        ('text = "b"', 'text = "c"', 6),
    ],
)
def test_a_change_is_one_of_its_step_only(tmp_path: Path, old: str, new: str, changed: int) -> None:
    before = [step.inputs for step in steps_of(recipe(tmp_path, RECIPE))]
    after = [step.inputs for step in steps_of(recipe(tmp_path, RECIPE.replace(old, new)))]
    differing = [number for number in range(len(before)) if before[number] != after[number]]
    assert differing == [changed]


def test_files_of_other_owners_can_be_removed(maker: Maker) -> None:
    maker.make("touch mine; chown 33:33 mine; mkdir closed; chmod 0 closed")
    layer = maker.trees[-1].parent
    assert (layer / "tree/mine").stat().st_uid != os.geteuid()
    remove(layer)
    assert not layer.exists()


CHANGER = """
import sys
from pathlib import Path
from attest.image.build_space import BuildSpace
from attest.image.tree import Workplace
from attest.support.claims import claimed
directory = Path(sys.argv[1])
with claimed(directory / "work") as work:
    place = Workplace(work, [directory / "below"], sys.argv[2] == "True",
                      BuildSpace(directory / "log", lambda line: None))
    place.change("changing", 'cd "$root"; touch a; chown 33 a; rm b; echo begun; cat /dev/zero',
                 follow=lambda line: print(line[:5], flush=True))
"""


def test_a_step_that_is_killed_leaves_nothing(maker: Maker, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/b").touch()
    command = [sys.executable, "-c", CHANGER, str(tmp_path), str(maker.overlay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as changer:
        assert changer.stdout is not None
        assert changer.stdout.readline() == "begun\n"
        assert (tmp_path / "work/out/tree/a").exists()
        changer.kill()
    deadline = time.monotonic() + 30
    while (tmp_path / "work").exists():
        assert time.monotonic() < deadline, list((tmp_path / "work").iterdir())
        time.sleep(0.01)
    assert (tmp_path / "below/b").exists()

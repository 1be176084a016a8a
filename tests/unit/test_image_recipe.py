from __future__ import annotations

from pathlib import Path

import pytest

from attest.errors import RecipeError
from attest.image.recipe import Recipe, builtin_recipes, load_recipe


def write(directory: Path, text: str, name: str = "web.toml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def load(directory: Path, text: str) -> Recipe:
    return load_recipe(str(write(directory, text)))


def test_builtin_recipes_load() -> None:
    assert builtin_recipes() == ["debian", "tiny"]
    debian, tiny = load_recipe("debian"), load_recipe("tiny")
    assert (debian.name, debian.base, debian.init) == ("debian", "debian", "systemd")
    assert (tiny.name, tiny.base, tiny.init) == ("tiny", "tiny", "agent")
    assert debian.kernel == f"linux-image-cloud-{debian.dpkg_arch}"


def test_everything_a_recipe_may_say(tmp_path: Path) -> None:
    tool = write(tmp_path, "#!/bin/sh\n", "tool")
    tool.chmod(0o755)
    recipe = load(
        tmp_path,
        """
        base = "debian"
        suite = "trixie"
        kernel = "linux-image-amd64"
        packages = ["nginx", "python3=3.13.5-1"]
        run = ["echo hello >/etc/greeting"]
        mask = ["nginx.service", "getty@.service"]
        modules = ["dm-mod"]
        cmdline = ["audit=0"]
        [files]
        "/usr/bin/tool" = "tool"
        "/etc/motd" = { text = "hello", mode = "0600" }
        """,
    )
    assert recipe.name == "web"
    (part,) = recipe.parts
    assert part.packages == ("nginx", "python3=3.13.5-1")
    assert (part.run, part.mask) == (
        ("echo hello >/etc/greeting",), ("nginx.service", "getty@.service"),
    )  # fmt: skip
    assert [(f.path, f.mode, f.content) for f in recipe.files] == [
        ("/usr/bin/tool", 0o755, b"#!/bin/sh\n"),
        ("/etc/motd", 0o600, b"hello"),
    ]
    assert recipe.cmdline == ("audit=0",)


def test_a_recipe_adds_to_another(tmp_path: Path) -> None:
    write(tmp_path, "of web", "page")
    (tmp_path / "common").mkdir()
    write(tmp_path / "common", "common", "page")
    write(
        tmp_path / "common",
        """
        base = "debian"
        suite = "trixie"
        packages = ["nginx"]
        run = ["first"]
        [files]
        "/etc/page" = "page"
        "/etc/motd" = { text = "hello" }
        """,
        "nginx.toml",
    )
    recipe = load(
        tmp_path,
        """
        base = "common/nginx.toml"
        packages = ["curl"]
        run = ["second"]
        mask = ["cron.service"]
        files."/etc/page" = "page"
        """,
    )
    assert (recipe.name, recipe.base, recipe.suite) == ("web", "debian", "trixie")
    assert recipe.kernel == load_recipe("debian").kernel
    below, own = recipe.parts
    assert (below.packages, own.packages) == (("nginx",), ("curl",))
    assert (below.run, own.run) == (("first",), ("second",))
    assert (below.mask, own.mask) == ((), ("cron.service",))
    assert [part.source.name for part in recipe.parts] == ["nginx.toml", "web.toml"]
    assert {f.path: f.content for f in recipe.files} == {
        "/etc/page": b"of web",
        "/etc/motd": b"hello",
    }
    assert load(tmp_path, 'base = "common/nginx.toml"\nsuite = "sid"').suite == "sid"


def test_bases_that_go_round_are_told(tmp_path: Path) -> None:
    write(tmp_path, 'base = "web.toml"', "other.toml")
    with pytest.raises(RecipeError, match=r"other\.toml: base: .*web\.toml has this recipe as"):
        load(tmp_path, 'base = "other.toml"')


def test_what_tiny_has_not_is_refused_above_it_too(tmp_path: Path) -> None:
    write(tmp_path, 'base = "tiny"', "small.toml")
    with pytest.raises(RecipeError, match=r"web\.toml: packages: not possible"):
        load(tmp_path, 'base = "small.toml"\npackages = ["nginx"]')


def test_a_path_is_relative_to_the_given_directory(tmp_path: Path) -> None:
    write(tmp_path, 'base = "tiny"')
    assert load_recipe("web.toml", relative_to=tmp_path).source == tmp_path / "web.toml"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["base: missing", '"debian", "tiny"']),
        ('base = "fedora"', ["base:", "another recipe in `.toml`", "'fedora'"]),
        ('base = "common.toml"', ["base:", "no file", "common.toml"]),
        ('base = "../NAME/web.toml"', ["base:", "as its own base"]),
        ('base = "debian"\npakages = []', ["pakages: unknown key", "`packages`"]),
        ('base = "debian"\npackages = "nginx"', ["packages:", "a list", '"nginx"']),
        ('base = "debian"\npackages = ["nginx", 3]', ["packages.1:", "text", "found 3"]),
        ('base = "debian"\npackages = ["nginx,vim"]', ["packages:", "package name", "nginx,vim"]),
        ('base = "debian"\nmask = ["nginx"]', ["mask:", "`cron.service`", "'nginx'"]),
        ('base = "debian"\ncmdline = ["a b"]', ["cmdline:", "'a b'"]),
        ('base = "debian"\nsuite = "../x"', ["suite:", "bookworm", "../x"]),
        ('base = "tiny"\npackages = ["nginx"]', ["packages:", 'use base = "debian"']),
        ('base = "tiny"\nfiles."etc/x" = "x"', ['files."etc/x":', "absolute"]),
        ('base = "tiny"\nfiles."/a/../b" = "x"', ['files."/a/../b":', "absolute"]),
        ('base = "tiny"\nfiles."/x" = "absent"', ['files."/x":', "absent: No such file"]),
        ('base = "tiny"\nfiles."/x" = {}', ['files."/x":', "`source` or `text`"]),
        ('base = "tiny"\n[files."/x"]\ntxt = ""', ['files."/x".txt: unknown key', "`text`"]),
        ('base = "tiny"\n[files."/x"]\ntext = ""\nmode = "rw"', ["mode:", '"0644"', "'rw'"]),
        ("base = tiny", ["not valid TOML", "line 1"]),
    ],
)
def test_an_error_names_file_key_and_remedy(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as raised:
        load(tmp_path, text.replace("NAME", tmp_path.name))
    for word in [str(tmp_path / "web.toml"), *words]:
        assert word in str(raised.value)


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no image recipe `debain`(.|\n)*did you mean `debian`"):
        load_recipe("debain")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.toml: cannot read the recipe: No such file"):
        load_recipe(str(tmp_path / "absent.toml"))


BASE = 'base = "debian"\nfiles."/etc/motd" = "motd"\n'


@pytest.mark.parametrize(
    "change",
    [
        'packages = ["nginx"]',
        'suite = "trixie"',
        'kernel = "linux-image-amd64"',
        'run = ["true"]',
        'mask = ["cron.service"]',
        'modules = ["dm-mod"]',
        'files."/etc/x" = {text = ""}',
    ],
)
def test_the_key_changes_with_what_shapes_the_root(tmp_path: Path, change: str) -> None:
    write(tmp_path, "hello", "motd")
    assert load(tmp_path, BASE).key() != load(tmp_path, BASE + change).key()


def test_the_key_changes_with_a_files_content_and_mode(tmp_path: Path) -> None:
    motd = write(tmp_path, "hello", "motd")
    before = load(tmp_path, BASE).key()
    assert load(tmp_path, BASE).key() == before
    motd.chmod(0o755)
    executable = load(tmp_path, BASE).key()
    motd.write_text("good bye")
    assert len({before, executable, load(tmp_path, BASE).key()}) == 3


def test_the_key_changes_with_what_run_lines_see(tmp_path: Path) -> None:
    write(tmp_path, "hello", "motd")
    late = BASE.replace('"motd"\n', '{ source = "motd", after_run = true }\n')
    assert load(tmp_path, late).key() != load(tmp_path, BASE).key()


def test_a_recipe_that_adds_nothing_is_its_base(tmp_path: Path) -> None:
    write(tmp_path, 'base = "debian"\npackages = ["nginx"]', "nginx.toml")
    derived = load(tmp_path, 'base = "nginx.toml"\ncmdline = ["audit=0"]')
    assert derived.key() == load_recipe(str(tmp_path / "nginx.toml")).key()


def test_the_key_stays_where_the_root_stays(tmp_path: Path) -> None:
    write(tmp_path, "hello", "motd")
    before = load(tmp_path, BASE + 'packages = ["nginx", "vim"]').key()
    reordered = '# a remark\ncmdline = ["audit=0"]\npackages = ["vim", "nginx"]'
    assert load(tmp_path, BASE + reordered).key() == before

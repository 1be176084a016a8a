"""Image recipes: what a TOML file says of an image, checked and resolved.

`load_recipe` takes a built-in name or the path of a recipe, and returns a `Recipe` whose `key`
changes whenever something changes that shapes the image's root.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import tomllib
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from attest.errors import HostError, RecipeError
from attest.support.validation import (
    check_keys,
    convert,
    did_you_mean,
    read_text,
    unreadable,
)

__all__ = ["Part", "Recipe", "RecipeFile", "builtin_recipes", "is_recipe", "load_recipe"]

BUILDER_VERSION: Final = 11
"""Goes into every key: raise it when the builder makes something else of the same recipe."""

_BUILTIN: Final = Path(__file__).parent / "recipes"
_DPKG_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_PATTERNS: Final = {
    "suite": (r"[a-z][a-z0-9-]*", "a Debian suite, such as `bookworm` or `stable`"),
    "kernel": (r"[a-z0-9][a-z0-9+.-]+", "a package name"),
    "packages": (
        r"[a-z0-9][a-z0-9+.-]+([=/][A-Za-z0-9.+:~-]+)?",
        "a package name, or `name=version`",
    ),
    "mask": (
        r"[A-Za-z0-9:_.\\@-]+\.(service|socket|target|timer|mount|automount|path|swap|device)",
        "a unit's full name, such as `cron.service`",
    ),
    "modules": (r"[A-Za-z0-9_-]+", "a kernel module's name"),
    "cmdline": (r"\S+", "one kernel parameter without blanks"),
}
_BASES: Final[dict[str, Literal["debian", "tiny"]]] = {"debian": "debian", "tiny": "tiny"}
_ANY_BASE: Final = '"debian", "tiny", or the path of another recipe in `.toml`'
_NOT_IN_TINY: Final = ("packages", "run", "mask")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the image, in the recipe's long form."""

    source: str = ""
    text: str | None = None
    mode: str = ""
    after_run: bool = False


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a recipe's file, before what it extends is added."""

    base: str
    suite: str = ""
    kernel: str = ""
    packages: list[str] = []
    files: dict[str, str | _File] = {}
    run: list[str] = []
    mask: list[str] = []
    modules: list[str] = []
    cmdline: list[str] = []


class RecipeFile(msgspec.Struct, frozen=True):
    """A file that the recipe puts into the image.

    Attributes:
        path: Where, absolute.
        mode: Permission bits.
        content: What is in it.
        after_run: It comes after the `run` lines, which do not see it.
    """

    path: str
    mode: int
    content: bytes
    after_run: bool = False

    def key(self) -> list[object]:
        """What it is, for the keys of what it is put into; JSON values."""
        return [self.path, self.mode, hashlib.sha256(self.content).hexdigest()]


class Part(msgspec.Struct, frozen=True):
    """What one recipe adds to its base, in the order in which it is added.

    Attributes:
        source: The recipe's file.
        packages: Packages.
        mask: systemd units that shall not start.
        files: Files put into the image.
        run: Shell commands run in the image; those files are not there yet that are `after_run`.
    """

    source: Path
    packages: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    files: tuple[RecipeFile, ...] = ()
    run: tuple[str, ...] = ()


class Recipe(msgspec.Struct, frozen=True):
    """What an image is made of.

    Attributes:
        name: The recipe's name: its file name without ``.toml``.
        source: The recipe's file.
        base: ``"debian"``, or ``"tiny"`` (busybox only).
        arch: The guest's architecture as ``uname -m`` has it; the host's.
        suite: The Debian suite that packages and kernel come from.
        kernel: The kernel's package.
        parts: What is added to the base: by each recipe below this one, then by itself.
        modules: Kernel modules that the initrd loads beyond the usual ones.
        cmdline: Kernel parameters.
    """

    name: str
    source: Path
    base: Literal["debian", "tiny"]
    arch: str
    suite: str
    kernel: str
    parts: tuple[Part, ...] = ()
    modules: tuple[str, ...] = ()
    cmdline: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[RecipeFile, ...]:
        """All files that stay: of those of the same path the last."""
        return tuple({file.path: file for part in self.parts for file in part.files}.values())

    @property
    def dpkg_arch(self) -> str:
        """The architecture as dpkg names it."""
        return _DPKG_ARCHITECTURES[self.arch]

    @property
    def init(self) -> Literal["systemd", "agent"]:
        """Which program process 1 is in the guest."""
        return "systemd" if self.base == "debian" else "agent"

    def key(self) -> str:
        """The SHA-256 (hexadecimal) of all that shapes the root, kernel and modules.

        Name, place and kernel parameters do not: recipes that differ only in them share their root.
        """
        parts = [
            [
                sorted(part.packages), sorted(part.mask),
                sorted([*file.key(), file.after_run] for file in part.files), part.run,
            ]
            for part in self.parts
        ]  # fmt: skip
        inputs = [
            BUILDER_VERSION, self.base, self.arch, self.suite, self.kernel, self.modules, parts,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def builtin_recipes() -> list[str]:
    """The names of the recipes that come with attest."""
    return sorted(path.stem for path in _BUILTIN.glob("*.toml"))


def is_recipe(reference: str) -> bool:
    """Whether what an image is called is the path of a recipe, and no name."""
    return reference not in builtin_recipes() and _is_path(Path(reference).expanduser())


def load_recipe(reference: str, relative_to: Path | None = None) -> Recipe:
    """Read a recipe.

    Args:
        reference: A built-in name, or the path of a ``.toml`` file.
        relative_to: The directory that a relative path starts from; default: the working directory.

    Raises:
        RecipeError: There is no such recipe, or it cannot be used.
    """
    return _load(_locate(reference, relative_to or Path()), ())


def _load(path: Path, derived: tuple[Path, ...]) -> Recipe:
    """Read a recipe, of which others are derived, the last of them directly."""
    try:
        raw = tomllib.loads(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot read the recipe: {unreadable(error)}") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from None
    return _resolve(_parse(raw, path), path, derived)


def _locate(reference: str, relative_to: Path) -> Path:
    builtin = builtin_recipes()
    if reference in builtin:
        return _BUILTIN / f"{reference}.toml"
    path = relative_to / Path(reference).expanduser()
    if path.suffix == ".json":
        raise RecipeError(f"{path}: no recipe: it describes an image that is made elsewhere")
    if _is_path(path):
        return path
    raise RecipeError(
        f"no image recipe `{reference}`; built in: {', '.join(builtin)}",
        hint=did_you_mean(reference, builtin) or "a recipe of your own is a path in `.toml`",
    )


def _is_path(path: Path) -> bool:
    return path.suffix == ".toml" or path.is_file()


def _parse(raw: dict[str, Any], path: Path) -> _Document:
    check_keys(raw, _Document, str(path), "", RecipeError)
    files = raw.get("files")
    for target, value in files.items() if isinstance(files, dict) else ():
        if isinstance(value, dict):
            check_keys(value, _File, str(path), f"files.{json.dumps(target)}", RecipeError)
    if "base" not in raw:
        raise RecipeError(f"{path}: base: missing; it is {_ANY_BASE}")
    return convert(raw, _Document, str(path), "", RecipeError)


def _resolve(document: _Document, path: Path, derived: tuple[Path, ...]) -> Recipe:
    below = _below(document.base, path, derived)
    _check_values(document, below.base, path)
    files = tuple(_file(path, target, value) for target, value in document.files.items())
    own = Part(path, tuple(document.packages), tuple(document.mask), files, tuple(document.run))
    return replace(
        below,
        name=path.stem,
        source=path,
        suite=document.suite or below.suite,
        kernel=document.kernel or below.kernel,
        parts=below.parts if own == Part(path) else (*below.parts, own),
        modules=(*below.modules, *document.modules),
        cmdline=(*below.cmdline, *document.cmdline),
    )


def _below(base: str, path: Path, derived: tuple[Path, ...]) -> Recipe:
    """The recipe or the built-in kind that a recipe extends."""
    if base in _BASES:
        arch = platform.machine()
        if arch not in _DPKG_ARCHITECTURES:
            raise HostError(
                f"images cannot be built on {arch}; known: {', '.join(_DPKG_ARCHITECTURES)}"
            )
        kernel = f"linux-image-cloud-{_DPKG_ARCHITECTURES[arch]}"
        return Recipe(base, path, _BASES[base], arch, suite="bookworm", kernel=kernel)
    if not base.endswith(".toml"):
        raise RecipeError(f"{path}: base: expected {_ANY_BASE}, found {base!r}")
    below = path.parent / Path(base).expanduser()
    if below.resolve() in (each.resolve() for each in (*derived, path)):
        raise RecipeError(f"{path}: base: {below} has this recipe as its own base")
    if not below.is_file():
        raise RecipeError(f"{path}: base: there is no file {below}")
    return _load(below, (*derived, path))


def _check_values(document: _Document, base: str, path: Path) -> None:
    for key, (pattern, right) in _PATTERNS.items():
        value = getattr(document, key)
        for entry in value if isinstance(value, list) else [value] if value else []:
            if not re.fullmatch(pattern, entry):
                raise RecipeError(f"{path}: {key}: expected {right}, found {entry!r}")
    if base == "tiny":
        for key in _NOT_IN_TINY:
            if getattr(document, key):
                raise RecipeError(
                    f'{path}: {key}: not possible with base = "tiny", which has no packages',
                    hint='use base = "debian"',
                )


def _file(recipe: Path, target: str, value: str | _File) -> RecipeFile:
    where = f"{recipe}: files.{json.dumps(target)}"
    if not target.startswith("/") or ".." in target.split("/") or target.endswith("/"):
        raise RecipeError(f"{where}: expected the absolute path of a file in the image")
    entry = _File(source=value) if isinstance(value, str) else value
    if bool(entry.source) == (entry.text is not None):
        raise RecipeError(f"{where}: expected either `source` or `text`")
    if not re.fullmatch(r"([0-7]?[0-7]{3})?", entry.mode):
        raise RecipeError(
            f'{where}.mode: expected octal digits such as "0644", found {entry.mode!r}'
        )
    return RecipeFile(target, *_content(recipe, where, entry), entry.after_run)


def _content(recipe: Path, where: str, entry: _File) -> tuple[int, bytes]:
    """A file's mode and content."""
    if entry.text is not None:
        return int(entry.mode or "644", 8), entry.text.encode()
    source = recipe.parent / Path(entry.source).expanduser()
    try:
        executable = bool(source.stat().st_mode & 0o100)
        mode = int(entry.mode, 8) if entry.mode else 0o755 if executable else 0o644
        return mode, source.read_bytes()
    except OSError as error:
        raise RecipeError(f"{where}: cannot read {source}: {error.strerror}") from None

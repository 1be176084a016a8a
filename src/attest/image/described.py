"""Described images: guests that were made elsewhere, such as by Nix.

A JSON file says what they consist of and where it is. Nothing is built, copied or looked into.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from attest.errors import RecipeError
from attest.image.model import Image
from attest.support.validation import check_keys, convert, kind_of, read_text, unreadable

__all__ = ["DESCRIBED_FILES", "is_description", "load_described"]

_VERSION: Final = 1
"""Goes into every digest: raise it when attest boots the same description in another way."""

DESCRIBED_FILES: Final = ("kernel", "vmlinux", "initrd", "root")
"""The keys of a description that are paths."""

_SYSTEMD_KVM: Final = ("kvm_amd", "kvm_intel")


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A description as it is written; paths are relative to its file."""

    arch: Annotated[
        Literal["x86_64", "aarch64"], Meta(description="the architecture, as `uname -m` has it")
    ]
    kernel: Annotated[str, Meta(description="the path of the kernel as a boot loader takes it")]
    initrd: Annotated[str, Meta(description="the path of the initrd")]
    init: Annotated[
        Literal["systemd", "agent"], Meta(description='what process 1 is, "systemd" or "agent"')
    ]
    own_initrd: Annotated[
        bool, Meta(description="true if the initrd mounts the root itself, false if it is attest's")
    ]
    name: str = ""
    vmlinux: str | None = None
    root: str | None = None
    cmdline: tuple[str, ...] = ()
    kernel_version: str = ""
    root_label: Annotated[
        str,
        Meta(description="the label of the root's file system", pattern=r"^[A-Za-z0-9_.-]{0,16}$"),
    ] = ""


def is_description(reference: str) -> bool:
    """Whether what a node calls its image is the path of a description."""
    return reference.endswith(".json")


def load_described(reference: str, relative_to: Path | None = None) -> Image:
    """The image that a file describes.

    Its digest covers the content of the description, but for what is only told to people, and of
    each file the path, links followed, the size and the time of change: a file of a Nix store
    never changes, and reading gigabytes at each start takes too long.

    Args:
        reference: The path of the ``.json`` file.
        relative_to: The directory that a relative path starts from; default: the working directory.

    Raises:
        RecipeError: It cannot be read or used, or a file that it names is not there.
    """
    path = (relative_to or Path()) / Path(reference).expanduser()
    document = _read(path)
    given = {key: getattr(document, key) for key in DESCRIBED_FILES}
    files = {key: _file(path, key, value) for key, value in given.items() if value is not None}
    return Image(
        digest=_digest(document, files),
        name=document.name or path.stem,
        arch=document.arch,
        path=path.parent,
        kernel=files["kernel"],
        vmlinux=files.get("vmlinux"),
        initrd=files["initrd"],
        root=files.get("root"),
        cmdline=document.cmdline,
        init=document.init,
        kernel_version=document.kernel_version,
        recipe=str(path.absolute()),
        # Whether they are in its root is not looked into: a test that needs them finds out.
        kvm=_SYSTEMD_KVM if document.init == "systemd" else (),
        own_initrd=document.own_initrd,
        root_label=document.root_label,
    )


def _read(path: Path) -> _Document:
    try:
        raw: Any = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise RecipeError(f"{path}: not valid JSON: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{path}: cannot read the image's description: {unreadable(error)}"
        ) from None
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: expected a table of keys, found {kind_of(raw)}")
    check_keys(raw, _Document, str(path), "", RecipeError)
    for field in msgspec.structs.fields(_Document):
        if field.required and field.name not in raw:
            raise RecipeError(f"{path}: {field.name}: missing; it is {_meaning(field.type)}")
    document = convert(raw, _Document, str(path), "", RecipeError)
    if document.arch != platform.machine():
        raise RecipeError(
            f"{path}: arch: expected {platform.machine()}, as this host is, found {document.arch}"
        )
    return document


def _meaning(annotated: Any) -> str:
    (meta,) = annotated.__metadata__
    return str(meta.description)


def _file(path: Path, key: str, value: str) -> Path:
    file = path.parent / Path(value).expanduser()
    where = f"{path}: {key}"
    if not file.exists():
        raise RecipeError(f"{where}: there is no file {file}")
    if not file.is_file():
        raise RecipeError(f"{where}: expected a file, found {file}, which is none")
    if not os.access(file, os.R_OK):
        raise RecipeError(f"{where}: {file} may not be read by this user")
    return file.resolve()


def _digest(document: _Document, files: Mapping[str, Path]) -> str:
    stats = {key: file.stat() for key, file in files.items()}
    parts = [
        _VERSION, document.arch, document.init, document.own_initrd, document.cmdline,
        document.root_label,
        [(key, str(files[key]), stat.st_size, stat.st_mtime_ns) for key, stat in stats.items()],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

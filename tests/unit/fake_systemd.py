"""A stand-in for systemd's private D-Bus socket, written from the D-Bus specification."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

CALL, REPLY, ERROR, SIGNAL = 1, 2, 3, 4
MANAGER = "/org/freedesktop/systemd1"


class Writer:
    """Marshals values one after the other."""

    def __init__(self) -> None:
        self.bytes = bytearray()

    def align(self, size: int) -> None:
        self.bytes += bytes(-len(self.bytes) % size)

    def fixed(self, code: str, value: int | float) -> None:
        self.align(struct.calcsize(code))
        self.bytes += struct.pack("<" + code, value)

    def string(self, text: str) -> None:
        data = text.encode()
        self.fixed("I", len(data))
        self.bytes += data + b"\0"

    def signature(self, text: str) -> None:
        self.bytes += bytes([len(text)]) + text.encode() + b"\0"

    def variant(self, signature: str, value: object) -> None:
        self.signature(signature)
        self.value(signature, value)

    def value(self, signature: str, value: object) -> None:
        """One complete type."""
        if signature in ("s", "o"):
            self.string(str(value))
        elif signature == "g":
            self.signature(str(value))
        elif signature == "v":
            assert isinstance(value, tuple)
            self.variant(*value)
        elif signature[0] == "a":
            self.array(signature[1:], value)
        elif signature[0] in "({":
            self.align(8)
            assert isinstance(value, tuple)
            for kind, part in zip(split(signature[1:-1]), value, strict=True):
                self.value(kind, part)
        else:
            code = {"b": "I", "u": "I", "i": "i", "t": "Q", "x": "q", "y": "B", "q": "H", "d": "d"}
            assert isinstance(value, int | float)
            self.fixed(code[signature], value)

    def array(self, element: str, values: object) -> None:
        self.fixed("I", 0)
        at = len(self.bytes)
        self.align(8 if element[0] in "({xtd" else 1 if element in "yvg" else 4)
        start = len(self.bytes)
        assert isinstance(values, list)
        for value in values:
            self.value(element, value)
        struct.pack_into("<I", self.bytes, at - 4, len(self.bytes) - start)


def split(signature: str) -> list[str]:
    """The complete types of a signature."""
    found, depth, start = [], 0, 0
    for at, letter in enumerate(signature):
        depth += (letter in "({") - (letter in ")}")
        if depth == 0 and letter != "a":
            found.append(signature[start : at + 1])
            start = at + 1
    return found


def message(
    kind: int, serial: int, fields: list[tuple[int, str, object]], signature: str, *body: object
) -> bytes:
    """One message of the bus."""
    content = Writer()
    for part, value in zip(split(signature), body, strict=True):
        content.value(part, value)
    head = Writer()
    for code, value in (
        ("B", ord("l")),
        ("B", kind),
        ("B", 0),
        ("B", 1),
        ("I", len(content.bytes)),
        ("I", serial),
    ):
        head.fixed(code, value)
    if signature:
        fields = [*fields, (8, "g", signature)]
    head.array("(yv)", [(field, (type, value)) for field, type, value in fields])
    head.align(8)
    return bytes(head.bytes + content.bytes)


class FakeSystemd:
    """Answers the agent's questions about units from `units`, and tells it of changes.

    Every test changes `units` first and then tells.
    """

    def __init__(self, directory: Path) -> None:
        (directory / "systemd/system").mkdir(parents=True)
        self.path = directory / "systemd/private"
        self.units: dict[str, dict[str, tuple[str, object]]] = {}
        self.jobs = 0
        self.finished = 1
        self.calls: list[str] = []
        self.garbage = b""
        self._connection: socket.socket | None = None
        self._lock = threading.Lock()
        self._serial = 0

    def unit(
        self,
        name: str,
        active: str,
        *,
        load: str = "loaded",
        job: int = 0,
        result: str = "success",
        status: int = 0,
    ) -> None:
        """Set a unit's state."""
        self.units[name] = {
            "Names": ("as", [name, "alias.service"]),
            "Id": ("s", name),
            "Conditions": (
                "a(sbbsi)",
                [("ConditionX", 0, 1, "/", 1), ("ConditionY", 0, 0, "", -1)],
            ),
            "Empty": ("a{sv}", []),
            "Nested": ("v", ("a(ayad)", [([1, 2, 3], [0.5]), ([], [])])),
            "LoadState": ("s", load),
            "Byte": ("y", 7),
            "ActiveState": ("s", active),
            "StateChangeTimestamp": ("t", 2**60),
            "SubState": ("s", f"sub-{active}"),
            "Short": ("q", 3),
            "Job": ("(uo)", (job, f"/org/freedesktop/systemd1/job/{job}")),
            "LoadError": ("(ss)", ("", "")),
            "Result": ("s", result),
            "ExecMainStatus": ("i", status),
        }

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Listen until the end of the block."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.path))
            listener.listen()
            thread = threading.Thread(target=self._accept, args=(listener,))
            thread.start()
            try:
                yield
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                self.hang_up()
                thread.join()
                self.path.unlink()

    def hang_up(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def tell(self, member: str, path: str = MANAGER, signature: str = "", *body: object) -> None:
        """Send a signal."""
        interface = "org.freedesktop.systemd1.Manager"
        if member == "PropertiesChanged":
            interface = "org.freedesktop.DBus.Properties"
        self._send(
            SIGNAL, [(1, "o", path), (2, "s", interface), (3, "s", member)], signature, *body
        )

    def changed(self, name: str) -> None:
        self.tell(
            "PropertiesChanged",
            unit_path(name),
            "sa{sv}as",
            "org.freedesktop.systemd1.Unit",
            [],
            [],
        )

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                self._connection, _ = listener.accept()
            except OSError:
                return
            with self._connection, contextlib.suppress(OSError, EOFError):
                self._serve(self._connection)

    def _serve(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        assert stream.readline() == b"\0AUTH EXTERNAL 30\r\n"
        assert stream.readline() == b"BEGIN\r\n"
        connection.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n" + self.garbage)
        while head := stream.read(16):
            _, _, _, _, body_size, serial, fields_size = struct.unpack("<BBBBIII", head)
            rest = stream.read(-(-fields_size // 8) * 8 + body_size)
            fields = rest[:fields_size]
            body = rest[len(rest) - body_size :] if body_size else b""
            self._answer(serial, header_strings(fields), body_strings(body))

    def _answer(self, serial: int, fields: dict[int, str], arguments: list[str]) -> None:
        reply: list[tuple[int, str, object]] = [(5, "u", serial)]
        path, member = fields[1], fields[3]
        self.calls.append(" ".join([member, *arguments]))
        unit = next((of for name, of in self.units.items() if unit_path(name) == path), None)
        if member == "Subscribe":
            self._send(REPLY, reply, "")
        elif arguments[-1] == "NJobs":
            self._send(REPLY, reply, "v", ("u", self.jobs))
        elif arguments[-1] == "FinishTimestampMonotonic":
            self._send(REPLY, reply, "v", ("t", self.finished))
        elif unit is None:
            name = "org.freedesktop.DBus.Error.UnknownObject"
            self._send(ERROR, [*reply, (4, "s", name)], "s", f"no unit at {path}")
        elif member == "GetAll":
            self._send(REPLY, reply, "a{sv}", list(unit.items()))
        else:
            self._send(REPLY, reply, "v", unit[arguments[-1]])

    def _send(
        self, kind: int, fields: list[tuple[int, str, object]], signature: str, *body: object
    ) -> None:
        with self._lock:
            self._serial += 1
            assert self._connection is not None
            self._connection.sendall(message(kind, self._serial, fields, signature, *body))


def unit_path(name: str) -> str:
    escaped = "".join(
        letter
        if letter.isascii() and letter.isalnum() and not (at == 0 and letter.isdigit())
        else f"_{ord(letter):02x}"
        for at, letter in enumerate(name)
    )
    return f"{MANAGER}/unit/{escaped}"


def header_strings(fields: bytes) -> dict[int, str]:
    """The header fields, all of which are strings in the agent's calls."""
    found, at = {}, 0
    while at < len(fields):
        at += -at % 8
        code, kind = fields[at], chr(fields[at + 2])
        at += 4
        if kind == "g":
            size = fields[at]
            at += 1
        else:
            (size,) = struct.unpack_from("<I", fields, at)
            at += 4
        found[code] = fields[at : at + size].decode()
        at += size + 1
    return found


def body_strings(body: bytes) -> list[str]:
    found, at = [], 0
    while at < len(body):
        at += -at % 4
        (size,) = struct.unpack_from("<I", body, at)
        found.append(body[at + 4 : at + 4 + size].decode())
        at += 4 + size + 1
    return found

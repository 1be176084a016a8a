#!/usr/bin/env python3
"""Stands in for QEMU as far as QMP goes: what it does there, the environment says.

``silent`` never greets, ``mute`` greets and answers nothing but the capabilities, ``gone`` ends at
once, ``flood`` ends after a line that is longer than any client reads, ``refuse`` refuses all.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys

VERSION = {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}}


def main() -> None:
    if sys.argv[1:] == ["--version"]:
        print("QEMU emulator version 10.0.2")
        return
    mode = os.environ["FAKE_QEMU"]
    if mode == "gone":
        sys.exit("no such machine")
    (number,) = re.findall(r"socket,id=(?:attest-)?qmp,fd=(\d+)", " ".join(sys.argv))
    monitor = socket.socket(fileno=int(number))
    if mode != "silent":
        say(monitor, {"QMP": {**VERSION, "capabilities": []}})
        while data := monitor.recv(65536):  # a request at a time, without an end of its line
            request = json.loads(data)
            echo = {"id": request["id"]} if "id" in request else {}
            if request["execute"] == "qmp_capabilities":
                say(monitor, {"return": {}, **echo})
                if mode == "flood":
                    monitor.sendall(b"x" * (11 << 20))
                    return
            elif mode == "refuse":
                error = {"class": "GenericError", "desc": "it does not want to"}
                say(monitor, {"error": error, **echo})
    signal.pause()


def say(monitor: socket.socket, message: dict[str, object]) -> None:
    monitor.sendall(json.dumps(message).encode() + b"\n")


main()

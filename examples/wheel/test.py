import tempfile
import zipfile
from pathlib import Path

PROGRAM = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version

GREETING = f"Hello from version {version('greeter')}\\n"

class Greeter(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(GREETING.encode())

def main():
    HTTPServer(("", int(sys.argv[1])), Greeter).serve_forever()
"""


def make_wheel(directory: str, version: str) -> Path:
    """The program as a wheel; a project of yours has its build tool for that."""
    info = f"greeter-{version}.dist-info"
    wheel = Path(directory, f"greeter-{version}-py3-none-any.whl")
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {
            "greeter.py": PROGRAM,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: greeter\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": "[console_scripts]\ngreeter = greeter:main\n",
            f"{info}/RECORD": "",
        }.items():
            archive.writestr(name, text)
    return wheel


def install(version: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        wheel = make_wheel(directory, version)
        machine.copy_from_host(wheel, f"/root/{wheel.name}")
    machine.succeed(f"/opt/greeter/bin/pip install --no-index /root/{wheel.name}")


def greeting() -> str:
    machine.wait_for_open_port(8000)
    return machine.succeed("curl --fail --silent http://localhost:8000/")


with subtest("the package is installed, and its service serves"):
    install("1.0")
    machine.succeed("systemctl start greeter")
    assert greeting() == "Hello from version 1.0\n"

with subtest("it does not run as root"):
    pid = machine.get_unit_property("greeter", "MainPID")
    assert machine.succeed(f"stat --format=%U /proc/{pid}") == "daemon\n"

with subtest("an upgrade is served after a restart, and is the only version there"):
    install("1.1")
    machine.succeed("systemctl restart greeter")
    assert greeting() == "Hello from version 1.1\n"
    installed = machine.succeed("ls -d /opt/greeter/lib/python3*/site-packages/greeter-*")
    assert len(installed.split()) == 1, installed

with subtest("it comes back when it has been killed"):
    machine.succeed("systemctl kill --signal=KILL greeter")
    machine.wait_until_succeeds("systemctl show --property=NRestarts greeter | grep =1")
    assert greeting() == "Hello from version 1.1\n"

"""What machines show and what is typed into them: a text console, a window of X, and none."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from string import ascii_uppercase

import pytest
from PIL import Image

from attest.cluster.cluster import Cluster
from attest.errors import MachineError, UsageError, WaitFailed
from attest.machine.machine import Machine

_SECRET = r"\377\377\0\0\0\0\0\022MIT-MAGIC-COOKIE-1\0\020sixteen letters."
"""As libXau has it in a file: for any display, a name and what only its friends know."""

_IMAGE = str(Path(__file__).with_name("screen.toml"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    nodes = {"pc": {"image": _IMAGE, "graphics": True}, "bare": {"image": _IMAGE}}
    with Cluster({"nodes": nodes}, accelerator="tcg") as cluster:
        yield cluster


@pytest.fixture
def pc(cluster: Cluster) -> Machine:
    """A machine with a display and a keyboard, started as a clone."""
    return cluster["pc"]


@pytest.fixture
def bare(cluster: Cluster) -> Machine:
    """One without."""
    return cluster["bare"]


def _picture(machine: Machine, name: str) -> Image.Image:
    machine.screenshot(name)
    return _read(machine.out_dir / f"{name}.png")


def _read(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture


@pytest.mark.timeout(300)
def test_a_text_console_is_seen_and_typed_into(pc: Machine) -> None:
    pc.succeed("systemctl restart getty@tty1")
    pc.wait_until_tty_matches("1", "login: ", timeout=60)
    pc.send_chars("root\n")
    pc.wait_until_tty_matches("1", "root@pc:~#", timeout=60)
    typed = "aZ09 -_=+[{]};:',<.>/?|`~!@#%^&*()" + ascii_uppercase * 5  # more than QEMU would queue
    pc.send_chars(f"cat > /tmp/typed\n{typed}\nWelcome\n")
    pc.send_key("ctrl-d")
    pc.wait_until_succeeds("grep Welcome /tmp/typed", timeout=60)
    assert pc.succeed("head -n 1 /tmp/typed") == f"{typed}\n"
    pc.wait_for_text("Welcome", timeout=60)
    assert "login" in pc.get_screen_text()
    assert any("Welcome" in text for text in pc.get_screen_text_variants())
    picture = _picture(pc, "console")
    assert (picture.format, picture.size) == ("PNG", (720, 400))
    pc.dump_tty_contents("1")
    pc.wait_until_succeeds("journalctl -b | grep Welcome", timeout=60)


@pytest.mark.timeout(300)
def test_a_window_is_found_seen_and_typed_into(pc: Machine) -> None:
    pc.succeed("systemctl start x")
    pc.wait_for_x(timeout=60)
    with pytest.raises(WaitFailed, match="no window 'terminal' in 1 s; there are: "):
        pc.wait_for_window("terminal", timeout=1)
    pc.succeed("systemctl start terminal")
    pc.wait_for_window("^term", timeout=60)
    assert "terminal" in pc.get_window_names()
    pc.wait_for_text("root@pc", timeout=60)
    pc.send_chars("echo Typed into a window > /tmp/window; cat /tmp/window\n")
    pc.wait_for_file("/tmp/window", timeout=60)
    pc.wait_for_text(r"\nTyped into a window", timeout=60)
    assert _picture(pc, "window").size == (800, 600)
    pc.succeed("systemctl stop terminal x")


def test_a_text_that_does_not_come_leaves_a_picture(pc: Machine) -> None:
    with pytest.raises(WaitFailed, match=r"did not show 'nonesuch' .*\.png\n  last seen:"):
        pc.wait_for_text("nonesuch", timeout=0.1)
    assert _read(pc.out_dir / "pc-not-found.png").format == "PNG"


def test_several_threads_take_pictures_at_the_same_time(pc: Machine) -> None:
    names = [f"shot-{number}" for number in range(16)]
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda name: _picture(pc, name), names))
    assert {picture.format for picture in pictures} == {"PNG"}
    assert not list(pc.state_dir.glob("*.png"))


def test_a_key_that_does_not_exist_is_named(pc: Machine) -> None:
    for key in ("hyper", "ctrl-hyper", "0xyz", "\N{LATIN SMALL LETTER E WITH ACUTE}"):
        culprit = key.removeprefix("ctrl-")
        with pytest.raises(UsageError, match=rf"send_key\('{key}'\): .*{culprit}"):
            pc.send_key(key)
    pc.send_key("0x1c")


def test_a_machine_without_a_display_shows_its_text_console(bare: Machine) -> None:
    bare.succeed("printf 'seen inside\\n' > /dev/tty1")
    assert "seen inside" in bare.get_tty_text("1")
    assert "seen inside\n" in bare.get_screen_text()
    bare.wait_for_text("seen in.*", timeout=60)
    assert _picture(bare, "inside").getcolors(10) is not None
    with pytest.raises(MachineError, match="microvm has no keyboard"):
        bare.send_chars("x")


@pytest.mark.timeout(300)
def test_a_machine_without_a_display_shows_its_virtual_x_server(bare: Machine) -> None:
    bare.succeed(f"printf '{_SECRET}' > /run/secret")
    bare.execute("Xvfb :0 -auth /run/secret -screen 0 500x300x24 >/dev/null 2>&1 &")
    bare.wait_for_x(timeout=60)
    bare.fail("xwininfo -root")
    terminal = "xterm -geometry 30x4 -fa Monospace -fs 20 -e 'echo VIRTUAL; sleep 999'"
    bare.execute(f"XAUTHORITY=/run/secret {terminal} >&2 &")
    bare.wait_for_window("VIRTUAL", timeout=60)
    bare.wait_for_text("VIRTUAL", timeout=60)
    assert _picture(bare, "virtual").size == (500, 300)


def test_qmp_and_the_monitor(pc: Machine) -> None:
    assert pc.qmp_client.send("query-status")["return"]["running"] is True
    assert "running" in pc.send_monitor_command("info status")
    pc.send_monitor_command("stop")
    pc.send_monitor_command("cont")
    assert pc.wait_for_qmp_event(lambda event: event["event"] == "STOP", timeout=60)
    assert pc.wait_for_qmp_event(lambda event: event["event"] == "RESUME", timeout=60)
    with pytest.raises(TimeoutError):
        pc.wait_for_qmp_event(lambda event: event["event"] == "RESUME", timeout=0.1)

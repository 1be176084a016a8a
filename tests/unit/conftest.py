"""A real agent on a Unix socket of this host, and channels to it."""

import platform
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from attest.errors import HostError
from attest.guest.agent.binary import agent_binary
from attest.guest.agent.channel import AgentChannel
from tests.unit.agents import Agent, Peer

settings.register_profile("busy", deadline=None)  # how long a busy host takes is no failure
settings.load_profile("busy")


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    try:
        binary = agent_binary(platform.machine())
    except HostError as error:
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp("agent") / "socket"
    with subprocess.Popen([binary, "--unix", path]) as process:
        agent = Agent(path, process)
        try:
            _await(agent)
            yield agent
        finally:
            process.terminate()


def _await(agent: Agent) -> None:
    pause = 0.001
    while agent.process.poll() is None:
        try:
            agent.connection().close()
        except OSError:
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        else:
            return
    pytest.fail(f"the agent ended with {agent.process.returncode}")


@pytest.fixture
def agent_path(agent: Agent) -> Path:
    return agent.path


@pytest.fixture
def channel(agent: Agent) -> Iterator[AgentChannel]:
    channel = AgentChannel("alice", agent.connection())
    channel.connect(30)
    yield channel
    channel.close()
    left = [thread for thread in threading.enumerate() if thread.name.endswith(" alice")]
    for thread in left:  # one that feeds a command learns of its end with its next write
        thread.join(30)
    assert [thread.name for thread in left if thread.is_alive()] == []


@pytest.fixture
def pair() -> Iterator[Callable[[], tuple[socket.socket, Peer]]]:
    peers: list[Peer] = []

    def make() -> tuple[socket.socket, Peer]:
        ours, theirs = socket.socketpair()
        theirs.settimeout(30)
        peers.append(Peer(theirs, bytearray()))
        return ours, peers[-1]

    yield make
    for peer in peers:
        peer.sock.close()

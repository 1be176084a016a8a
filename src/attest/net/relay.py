"""Carries TCP connections from the driver's network into the cell's.

    python -m attest.net.relay LISTENER PORT

It runs in the cell, and dies with it. LISTENER is the descriptor of a listening socket of the
driver's network; what connects there is connected to PORT of the cell's loopback.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Final

_PIECE: Final = 65_536


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(_PIECE):
            target.write(data)
            await target.drain()
        target.write_eof()
    except OSError:
        target.transport.abort()


async def _main(listener: int, port: int) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_carry(reader, inner_writer), _carry(inner_reader, writer))
        inner_writer.close()
        writer.close()

    server = await asyncio.start_server(connected, sock=socket.socket(fileno=listener))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2])))

"""Accepting under pressure: a limit, and a system without free descriptors."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from coordinator.api.acceptor import Acceptor


def test_connections_beyond_the_limit_wait_until_there_is_room() -> None:
    async def main() -> None:
        served: asyncio.Queue[socket.socket] = asyncio.Queue()
        open_now: list[socket.socket] = []

        def serve(connection: socket.socket, _: object) -> None:
            open_now.append(connection)
            served.put_nowait(connection)

        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        address = listener.getsockname()
        acceptor = Acceptor([listener], serve, lambda: len(open_now), connections_max=2)
        acceptor.start()
        clients = [socket.create_connection(address) for _ in range(3)]
        for _ in range(2):
            await asyncio.wait_for(served.get(), 5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(served.get(), 0.5)
        open_now.pop().close()
        await asyncio.wait_for(served.get(), 5)
        acceptor.stop()
        for sock in (*clients, *open_now):
            sock.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

    asyncio.run(main())


class Exhausted(socket.socket):
    """A listening socket of a process that has no descriptor left."""

    tries = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.tries += 1
        raise OSError(errno.EMFILE, "Too many open files")


def test_accepting_pauses_instead_of_spinning_without_descriptors() -> None:
    async def main() -> None:
        with Exhausted() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.setblocking(False)
            acceptor = Acceptor([listener], lambda *_: None, lambda: 0)
            acceptor.start()
            with socket.create_connection(listener.getsockname()):
                await asyncio.sleep(0.7)
            assert 1 <= listener.tries <= 5
            acceptor.stop()

    asyncio.run(main())

"""How long a start waits for whom."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator.appliance import start
from coordinator.appliance.layout import Options, Paths
from coordinator.appliance.processes import Program
from coordinator.appliance.start import Start
from coordinator.appliance.supervisor import Child, Supervisor


async def serve(slow: int) -> tuple[asyncio.Server, int]:
    """A worker that is never ready for writes and that leaves its first `slow` questions unanswered."""
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        head = await reader.readuntil(b"\r\n\r\n")
        if asked > slow:
            status = b"200 OK" if b"/healthz" in head else b"503 Service Unavailable"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


def test_a_later_start_waits_for_a_worker_that_is_only_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_LATE_TIMEOUT_S", 0.0)
    said: list[str] = []

    async def run() -> None:
        server, port = await serve(slow=3)
        async with server:
            supervisor = Supervisor(run=tmp_path, logs=tmp_path, restart=True, changed=lambda: None)
            starting = Start(Paths(tmp_path), Options(), supervisor, said.append)
            program = Program(name="worker1", role="coordinator", site="site1", argv=())
            await starting._wait_or_go_on(Child(program, None), port, "/readyz?writes=true")

    asyncio.run(run())
    [sentence] = said
    assert "The service starts all the same" in sentence

"""Room in memory for a body that is received whole before it is stored."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final

from coordinator.api.base import ApiHandler

# No more than a connection buffers anyway: small files and blocks never wait behind large bodies of slow clients.
UNCOUNTED_BYTES_MAX: Final = 64 * 1024


async def hold_room(handler: ApiHandler, held: AsyncExitStack, size: int) -> None:
    """Wait until there is room for `size` bytes; `held` gives it back. The handler is ended if its client stalls while
    others wait."""
    if size > UNCOUNTED_BYTES_MAX:
        await held.enter_async_context(handler.services.store.incoming.hold(size, handler))

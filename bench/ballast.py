"""Free memory made to cost what it costs on a machine that has been running for days.

Virtual machines often hand memory that is free back to their host, after a second or two. Touching it again then costs
about 2 CPU seconds per GB, ten times what writing a file costs: more than several stages of a transfer, and nothing
that the service could change. A machine in long use has no such memory, since the page cache has filled it. `filled`
brings that about: it reads a sparse file, which fills the cache with clean pages that the kernel gives up when asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.machine import memory_bytes

_KEEP_FREE_BYTES: Final = 256 << 20
_PIECE_BYTES: Final = 4 << 20


@contextmanager
def filled(folder: Path) -> Iterator[int]:
    """Keep free memory in the page cache while the block runs; gives how many bytes. Takes 3 s of CPU per GB once."""
    size = max(0, memory_bytes("MemFree") - _KEEP_FREE_BYTES)
    path = folder / "ballast"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("wb") as out:
            out.truncate(size)
        buffer = bytearray(_PIECE_BYTES)
        with path.open("rb", buffering=0) as source:
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while source.readinto(buffer):
                pass
        yield size
    finally:
        path.unlink(missing_ok=True)

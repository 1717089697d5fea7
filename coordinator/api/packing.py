"""Compressed bodies (gzip): requests are unpacked within bounds, answers packed where that helps.

Guarantees: an unpacked body never exceeds its limit, and no more than one piece beyond what the handler has taken is
held, whatever the packed bytes say.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from coordinator.protocol.errors import BadRequest, TooLarge

PACK_FROM_BYTES: Final = 1024
PACK_HERE_BYTES_MAX: Final = 64 * 1024  # half a millisecond; what is larger leaves the event loop
_PIECE_BYTES: Final = 256 * 1024
# What a few bytes may become; beyond it a body must send its share, as every body does that says something: hashes pack
# to a half, and thousands of entries to a tenth. Otherwise 64 KB of noise would hold 64 MiB of a worker's memory.
FREE_BYTES: Final = 8 * 1024 * 1024
RATIO_MAX: Final = 64
_LEVEL: Final = 1  # half of a listing's size at a tenth of the time that the default level takes for two thirds
_GZIP: Final = 16 + zlib.MAX_WBITS


class Unpacker:
    """One body on its way in. Used by one request at a time."""

    def __init__(self, limit: int) -> None:
        """`limit`: the most bytes that the body may unpack to."""
        self._limit = limit
        self._left = limit
        self._allowed = FREE_BYTES  # what may still be unpacked for the bytes that came
        self._stream = zlib.decompressobj(wbits=_GZIP)

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """What these bytes unpack to, in pieces. Raises BadRequest (not gzip), TooLarge."""
        self._allowed += len(packed) * RATIO_MAX
        while packed and not self._stream.eof:
            try:
                piece = self._stream.decompress(packed, _PIECE_BYTES)
            except zlib.error:
                raise BadRequest(reason="the body is not compressed as it says") from None
            packed = self._stream.unconsumed_tail
            self._left -= len(piece)
            self._allowed -= len(piece)
            if self._left < 0:
                raise TooLarge(limit=self._limit)
            if self._allowed < 0:
                raise TooLarge(limit=f"{FREE_BYTES} bytes, or {RATIO_MAX} for each one sent; {self._limit}")
            if piece:
                yield piece
        if self._stream.unused_data or (packed and self._stream.eof):
            raise BadRequest(reason="something follows the compressed body")

    def finish(self) -> None:
        """Call after the last byte. Raises BadRequest where some are missing."""
        if not self._stream.eof:
            raise BadRequest(reason="the compressed body is cut off")


def pack(content: bytes) -> bytes | None:
    """`content` as gzip; None where that saves nothing."""
    packer = zlib.compressobj(_LEVEL, wbits=_GZIP)
    packed = packer.compress(content) + packer.flush()
    return packed if len(packed) < len(content) else None


def takes_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header asks for gzip by its name."""
    for part in accept_encoding.lower().split(","):
        name, _, parameters = part.partition(";")
        if name.strip() == "gzip":
            return parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False

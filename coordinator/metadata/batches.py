"""How batches of file writes become the arrays that the SQL functions take, and their refusals errors. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from coordinator.metadata.entries import joined, keys_of, path_digest
from coordinator.metadata.values import FileWrite
from coordinator.protocol.errors import (
    ApiError,
    BadRequest,
    BlocksMissing,
    InternalError,
    IsAFolder,
    NotAFolder,
    NotFound,
    OffsetMismatch,
    QuotaExceeded,
    SizeMismatch,
    UploadGone,
    UploadSuperseded,
    VersionConflict,
)
from coordinator.protocol.hashing import HASH_BYTES, count_blocks

Keys = tuple[str, ...]
_GUARDS = {1: "id", 2: "parent_id"}  # as the functions in SQL number them


@dataclass(slots=True)
class Run:
    """Writes of one namespace of which none names the path of another or one below it; `at` are their positions."""

    at: list[int] = field(default_factory=list)
    writes: list[FileWrite] = field(default_factory=list)
    keys: list[Keys] = field(default_factory=list)

    def folders(self) -> tuple[list[str], list[str], list[int]]:
        """The distinct parent folders (names and keys, joined) and for each write the number of its own, from 1."""
        numbers: dict[Keys, int] = {}
        names: list[str] = []
        which = []
        for write, keys in zip(self.writes, self.keys, strict=True):
            if keys[:-1] not in numbers:
                names.append(joined(write.target.names[:-1]))
            which.append(numbers.setdefault(keys[:-1], len(numbers) + 1))
        return names, [joined(keys) for keys in numbers], which

    def digests(self) -> list[bytes]:
        return [path_digest(keys) for keys in self.keys]


def check_write(write: FileWrite) -> ApiError | None:
    """What is wrong with a write before any look at the database."""
    if not write.target.names:
        return IsAFolder()
    if len(write.hashes) != count_blocks(write.size_bytes):
        reason = f"{write.size_bytes} bytes are {count_blocks(write.size_bytes)} blocks, not {len(write.hashes)}"
        return BadRequest(reason=reason)
    return None


def split_into_runs(writes: Sequence[tuple[int, FileWrite]]) -> Iterator[Run]:
    """The writes (with their positions) by namespace, in order, cut where one depends on an earlier one's outcome."""
    by_namespace: dict[int, list[tuple[int, FileWrite]]] = {}
    for at, write in writes:
        by_namespace.setdefault(write.target.namespace_id, []).append((at, write))
    for group in by_namespace.values():
        run, files, folders = Run(), set[Keys](), set[Keys]()
        for at, write in group:
            keys = tuple(keys_of(write.target.names))
            above = [keys[:length] for length in range(1, len(keys))]
            if keys in files or keys in folders or not files.isdisjoint(above):
                yield run
                run, files, folders = Run(), set(), set()
            run.at.append(at)
            run.writes.append(write)
            run.keys.append(keys)
            files.add(keys)
            folders.update(above)
        yield run


def refusal(code: str, fact: int | None, fact2: int | None, missing: bytes | None = None) -> ApiError:
    """The error for what a function in SQL answered in its o_error column."""
    match code:
        case "version_conflict":
            return VersionConflict(current_version=fact, **({"guard": _GUARDS[fact2]} if fact2 else {}))
        case "blocks_missing":
            assert missing is not None
            hashes = (missing[at : at + HASH_BYTES].hex() for at in range(0, len(missing), HASH_BYTES))
            return BlocksMissing(missing=list(dict.fromkeys(hashes)))
        case "quota_exceeded":
            return QuotaExceeded(used=fact, quota=fact2)
        case "size_mismatch":
            return SizeMismatch(received=fact2, expected=fact)
        case "offset_mismatch":
            return OffsetMismatch(expected_offset=fact)
        case "not_found":
            return NotFound(what="upload")
    simple: dict[str, type[ApiError]] = {
        "not_a_folder": NotAFolder,
        "is_a_folder": IsAFolder,
        "upload_gone": UploadGone,
        "superseded": UploadSuperseded,
    }
    return simple.get(code, InternalError)(refused=code)

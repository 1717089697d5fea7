"""What a storage node refuses, as one small hierarchy: one class per decision that a caller can make.

The `code` travels on the wire; `error_from_wire` turns it back into the class on the caller's side.
"""

from __future__ import annotations

from typing import ClassVar


class NodeError(Exception):
    """A node answered that it did not do what was asked; nothing was stored or lost by the refusal."""

    code: ClassVar[str] = "node_error"


class BadRequest(NodeError):
    """The message could not be decoded or breaks a limit of the protocol. Do not repeat it."""

    code = "bad_request"


class NodeBusy(NodeError):
    """The disk's queue is full. Place the shard elsewhere, or ask again after a pause."""

    code = "busy"


class DeadlinePassed(NodeError):
    """The request's deadline had passed before the node began it."""

    code = "deadline_passed"


class StaleEpoch(NodeError):
    """The placement group has moved on. Read it again before repeating."""

    code = "stale_epoch"


class ShardMissing(NodeError):
    """This disk positively does not hold the shard."""

    code = "shard_missing"


class ShardCorrupt(NodeError):
    """The disk holds the shard, but its bytes do not match its digest."""

    code = "shard_corrupt"


class ShardConflict(NodeError):
    """Another payload is already stored under this block id and index."""

    code = "shard_conflict"


class DiskUnknown(NodeError):
    """No disk of that id is mounted in this node (absent, foreign or swapped)."""

    code = "disk_unknown"


class DiskFull(NodeError):
    """The disk is above its write threshold, or the write hit the end of the device."""

    code = "disk_full"


class DiskFailed(NodeError):
    """The disk failed an operation and is out of use until an operator clears it."""

    code = "disk_failed"


class NodeUnreachable(NodeError):
    """No answer: the connection is down or the deadline passed. Whether the request was done is unknown."""

    code = "unreachable"


ERRORS: dict[str, type[NodeError]] = {
    kind.code: kind
    for kind in (
        NodeError,
        BadRequest,
        NodeBusy,
        DeadlinePassed,
        StaleEpoch,
        ShardMissing,
        ShardCorrupt,
        ShardConflict,
        DiskUnknown,
        DiskFull,
        DiskFailed,
        NodeUnreachable,
    )
}


def error_from_wire(code: str, message: str) -> NodeError:
    """The exception for a refusal read off the wire; an unknown code becomes a plain NodeError."""
    return ERRORS.get(code, NodeError)(message)

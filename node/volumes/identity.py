"""Whose disk this is: an identity file that is written once, and a lock against a second daemon.

Guarantees: `claim_disk` gives a claim only on a directory that was formatted for this cluster, node and disk id, and
that no other process holds. It writes nothing, so an unmounted mount point or a swapped disk stays as it is.
`format_disk` works on an empty directory only and never makes that directory.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from pathlib import Path
from typing import Final

import msgspec

from node.base.durable import sync_directory, write_file_durably

IDENTITY_FILE: Final = "identity.json"
LOCK_FILE: Final = "lock"
VOLUMES_FOLDER: Final = "volumes"
INDEX_FOLDER: Final = "index"
INDEX_STATE_FILE: Final = "state"
FAILED_FILE: Final = "failed"
RESERVE_FILE: Final = "reserve"

# mkfs makes it on an ext4 file system of its own.
_HARMLESS: Final = frozenset({"lost+found"})


class DiskForeign(Exception):
    """This directory is not the disk that the configuration names; the message says why."""


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`generation` rises when an operator makes a disk anew under its old id."""

    format_version: int = 1
    cluster_id: str
    node: str
    disk_id: str
    generation: int = 1


class _Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    identity: Identity
    crc32: int


class Claim:
    """A disk that is ours until `release`."""

    def __init__(self, path: Path, identity: Identity, lock: int) -> None:
        self.path = path
        self.identity = identity
        self._lock = lock

    def release(self) -> None:
        os.close(self._lock)


def format_disk(path: Path, identity: Identity) -> None:
    """Make the empty directory `path` a disk. Raises DiskForeign when it is missing or holds anything, and OSError.

    What an earlier call that was cut short has left there counts as nothing.
    """
    if not path.is_dir():
        raise DiskForeign(f"{path} is not a directory; make it, or mount the disk, first")
    if found := sorted(name for name in os.listdir(path) if name not in _HARMLESS and not _is_unfinished(path / name)):
        raise DiskForeign(f"{path} is not empty (it holds {found[0]}); a disk is only ever made in an empty directory")
    (path / VOLUMES_FOLDER).mkdir(mode=0o750, exist_ok=True)
    (path / LOCK_FILE).touch(mode=0o640)
    sync_directory(path)
    # The identity comes last: without it the directory is not taken for a disk.
    write_file_durably(path / IDENTITY_FILE, _encode(identity), mode=0o640)


def _is_unfinished(path: Path) -> bool:
    """Whether `format_disk` makes such a thing before the identity, and it is still as it was made."""
    if path.name == VOLUMES_FOLDER:
        return path.is_dir() and not any(path.iterdir())
    if path.name == LOCK_FILE:
        return path.is_file() and path.stat().st_size == 0
    return path.name.startswith(f".{IDENTITY_FILE}.") and path.name.endswith(".tmp")


def is_formatted_as(path: Path, identity: Identity) -> bool:
    """Whether `path` is a disk already, and this one. Raises DiskForeign when it is another."""
    if not (path / IDENTITY_FILE).exists():
        return False
    found = read_identity(path)
    if (found.cluster_id, found.node, found.disk_id) != (identity.cluster_id, identity.node, identity.disk_id):
        raise DiskForeign(f"{path} is disk {found.disk_id} of node {found.node}, cluster {found.cluster_id}")
    return True


def claim_disk(path: Path, cluster_id: str, node: str, disk_id: str) -> Claim:
    """Check whose disk this is and lock it. Raises DiskForeign."""
    identity = read_identity(path)
    expected = (("cluster", cluster_id, identity.cluster_id), ("node", node, identity.node))
    for what, ours, theirs in (*expected, ("disk", disk_id, identity.disk_id)):
        if ours != theirs:
            raise DiskForeign(f"{path} belongs to {what} {theirs}, not {ours}")
    return Claim(path, identity, _lock(path))


def read_identity(path: Path) -> Identity:
    """Raises DiskForeign."""
    try:
        signed = msgspec.json.decode((path / IDENTITY_FILE).read_bytes(), type=_Signed)
    except OSError as error:
        raise DiskForeign(f"{path} carries no identity ({error.strerror}); is the disk mounted?") from error
    except msgspec.MsgspecError as error:
        raise DiskForeign(f"the identity of {path} cannot be read: {error}") from error
    if signed.crc32 != _checksum(signed.identity):
        raise DiskForeign(f"the identity of {path} is damaged: its checksum does not match")
    if signed.identity.format_version != 1:
        raise DiskForeign(f"{path} has format version {signed.identity.format_version}, this daemon reads 1")
    return signed.identity


def _lock(path: Path) -> int:
    try:
        descriptor = os.open(path / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DiskForeign(f"{path} has no lock file: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise DiskForeign(f"another process uses {path}") from error
    return descriptor


def _encode(identity: Identity) -> bytes:
    return msgspec.json.format(msgspec.json.encode(_Signed(identity, _checksum(identity)))) + b"\n"


def _checksum(identity: Identity) -> int:
    return zlib.crc32(msgspec.json.encode(identity))

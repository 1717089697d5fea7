"""Damage on purpose: flipped bits, cut files, exchanged disks, small disks, and the seed that repeats a run."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from node.volumes.format import ALIGNMENT, HEADER_BYTES, RECORD_MAGIC, FormatError, Kind, Place, Record, unpack_record
from node.volumes.identity import VOLUMES_FOLDER, read_identity


def make_random(name: str) -> random.Random:
    """A random source whose seed is printed; HOLDFAST_SEED repeats a run."""
    seed = int(os.environ.get("HOLDFAST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"{name}: HOLDFAST_SEED={seed}")
    return random.Random(seed)


@dataclass(frozen=True)
class StoredShard:
    """One shard as it lies in a volume file; `payload_offset` and `payload_bytes` say where its bytes are."""

    path: Path
    record: Record
    payload_offset: int

    @property
    def payload_bytes(self) -> int:
        return self.record.payload_bytes


def list_volumes(disk: Path) -> list[Path]:
    """The volume files of a disk, oldest first."""
    return sorted(path for path in (disk / VOLUMES_FOLDER).iterdir() if path.stem.isdecimal())


def list_shards(disk: Path) -> list[StoredShard]:
    """Every shard in the volumes of a disk, found by reading them from end to end."""
    disk_id = bytes.fromhex(read_identity(disk).disk_id)
    found = []
    for path in list_volumes(disk):
        data = path.read_bytes()
        for offset in range(ALIGNMENT, len(data), ALIGNMENT):
            if data[offset : offset + len(RECORD_MAGIC)] != RECORD_MAGIC:
                continue
            with contextlib.suppress(FormatError):
                place = Place(int(path.stem), offset)
                record = unpack_record(data[offset : offset + HEADER_BYTES], place, disk_id)
                if record.kind is Kind.SHARD:
                    found.append(StoredShard(path, record, offset + HEADER_BYTES))
    return found


def flip_bit(path: Path, offset: int, bit: int) -> None:
    """Flip one bit of a file in place, as a failing medium would, whoever has it open."""
    with path.open("r+b", buffering=0) as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def flip_bit_in_every_shard(disk: Path, rng: random.Random) -> int:
    """One flipped bit somewhere in the payload of each shard of a disk; how many shards that were."""
    shards = list_shards(disk)
    for shard in shards:
        flip_bit(shard.path, shard.payload_offset + rng.randrange(shard.payload_bytes), rng.randrange(8))
    return len(shards)


def exchange(one: Path, other: Path) -> None:
    """Two folders change places."""
    aside = one.with_name(one.name + ".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def can_mount() -> bool:
    """Whether this process may mount a tmpfs (root with the capability; containers often lack it)."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    probe = Path("/run") / f"holdfast-mount-{os.getpid()}"
    probe.mkdir()
    try:
        if subprocess.run(["mount", "-t", "tmpfs", "none", probe], capture_output=True, check=False).returncode:
            return False
        subprocess.run(["umount", probe], check=True)
        return True
    finally:
        probe.rmdir()


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A tmpfs of this size mounted on `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "none", folder], check=True)
    try:
        yield folder
    finally:
        # Lazily: a daemon that the test left behind must not keep the mount, and the machine, busy.
        subprocess.run(["umount", "--lazy", folder], check=True)

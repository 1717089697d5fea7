"""Opening a claimed disk: believe or rebuild its index, recover its volumes, find the volume to append to."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from node.base.clock import Clock
from node.protocol.errors import DiskFailed
from node.volumes.changes import Epochs
from node.volumes.disk_io import DiskIO
from node.volumes.format import FIRST_RECORD_OFFSET
from node.volumes.health import DiskState, Health
from node.volumes.identity import INDEX_FOLDER, VOLUMES_FOLDER, Claim
from node.volumes.index import Index, IndexBroken, IndexState
from node.volumes.recovery import IndexDisagrees, Report, recover
from node.volumes.store import ShardStore, StoreCounts, StoreSettings
from node.volumes.volume import OpenVolume, VolumeFolder, find_volume_end

_INDEX_BYTES_MIN: Final = 256 << 20
_INDEX_SHARE: Final = 128  # of the file system; an entry takes some 100 bytes, the smallest record 4096

_log = logging.getLogger(__name__)


def open_store(
    claim: Claim,
    *,
    health: Health,
    epochs: Epochs,
    clock: Clock,
    io: DiskIO,
    settings: StoreSettings,
    boot_id: str,
) -> ShardStore:
    """Open a claimed disk and recover it. The store owns the claim from here on.

    A disk that failed in an earlier run is opened for reading only, and only when its index can be believed.
    Raises DiskFailed when that is not so, or when the disk fails during recovery.
    """
    folder = VolumeFolder(os.fspath(claim.path / VOLUMES_FOLDER), bytes.fromhex(claim.identity.disk_id), io)
    state = IndexState(claim.path / INDEX_FOLDER, boot_id)
    counts = StoreCounts()
    try:
        if health.state is DiskState.FAILED:
            index, volume = _open_failed(claim, state, health), None
        else:
            health.refresh()
            index, report, writable = _recover_index(claim.path / INDEX_FOLDER, state, folder, health, counts)
            _count(report, counts)
            volume = _open_newest(folder, int(clock.now() * 1000), writable=writable)
    except (OSError, IndexBroken) as error:
        health.fail(f"recovery: {error}")
        folder.close()
        raise DiskFailed(health.reason) from error
    except DiskFailed:
        folder.close()
        raise
    return ShardStore(
        claim=claim,
        folder=folder,
        index=index,
        index_state=state,
        health=health,
        epochs=epochs,
        clock=clock,
        settings=settings,
        counts=counts,
        volume=volume,
    )


def _open_failed(claim: Claim, state: IndexState, health: Health) -> Index:
    if not state.is_trustworthy():
        raise DiskFailed(health.reason)
    return Index(claim.path / INDEX_FOLDER, map_bytes=_INDEX_BYTES_MIN, read_only=True)


def _recover_index(
    path: Path, state: IndexState, folder: VolumeFolder, health: Health, counts: StoreCounts
) -> tuple[Index, Report, bool]:
    map_bytes = max(_INDEX_BYTES_MIN, health.usage.size // _INDEX_SHARE)
    if state.is_trustworthy():
        state.write(clean=False)
        index: Index | None = None
        try:
            index = Index(path, map_bytes=map_bytes)
            return index, *recover(folder, index, believed=True)
        except (IndexBroken, IndexDisagrees) as error:
            _log.error("index.thrown_away", extra={"path": str(path), "reason": str(error)})
            if index is not None:
                index.close()
    elif folder.list_numbers():
        _log.warning("index.rebuilt", extra={"path": str(path), "reason": "the machine went down with it open"})
    state.reset()
    state.write(clean=False)
    counts.index_rebuilds += 1
    index = Index(path, map_bytes=map_bytes)
    return index, *recover(folder, index, believed=False)


def _open_newest(folder: VolumeFolder, now_ms: int, *, writable: bool) -> OpenVolume:
    numbers = folder.list_numbers()
    if writable and numbers:
        file = folder.open_writable(numbers[-1])
        return OpenVolume(file, find_volume_end(file), folder.disk_id, folder.io)
    file = folder.create(max(numbers, default=0) + 1, now_ms)
    return OpenVolume(file, FIRST_RECORD_OFFSET, folder.disk_id, folder.io)


def _count(report: Report, counts: StoreCounts) -> None:
    counts.torn_tails = report.torn_tails
    counts.damaged_stretches = len(report.damaged)
    counts.shards_found_bad = report.bad_payloads

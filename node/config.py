"""What node.toml may say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import zmq

from node.base.config import ConfigError, load_toml
from node.volumes.disk import DiskName, DiskSettings
from node.volumes.health import Thresholds
from node.volumes.store import StoreSettings

DAY_S: Final = 86400.0
MIB: Final = 1 << 20

HexId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
Percent = Annotated[float, msgspec.Meta(gt=0, le=100)]


class DiskConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[disks]]` table: a directory on a file system of its own, and the id it was formatted with."""

    path: str
    id: HexId


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An unknown, missing or out-of-range key stops the daemon and is named. node/README.md has a sample."""

    cluster_id: Annotated[str, msgspec.Meta(min_length=1)]
    name: Annotated[str, msgspec.Meta(min_length=1)]
    site: Annotated[str, msgspec.Meta(min_length=1)]
    listen: str  # "tcp://address:port"
    secret_key_file: str  # CURVE secret in Z85, mode 0600
    coordinator_keys: tuple[str, ...]  # Z85 public keys that may connect; all others are refused
    disks: tuple[DiskConfig, ...]
    metrics_listen: str | None = None  # "address:port" for Prometheus; absent: no metrics endpoint
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    volume_bytes: Annotated[int, msgspec.Meta(ge=1 << 16)] = 1 << 30  # a volume is closed at this size
    trash_keep_s: Annotated[float, msgspec.Meta(ge=0)] = 7 * DAY_S  # a deleted shard stays on the disk for this long
    reserve_bytes: Annotated[int, msgspec.Meta(ge=0)] = 16 * MIB  # held back on each disk, so that deletes always work
    warn_percent: Percent = 85.0  # of the file system in use: say so
    no_repair_percent: Percent = 90.0  # take no shards that repair brings
    no_writes_percent: Percent = 95.0  # take nothing
    queue_jobs_max: Annotated[int, msgspec.Meta(ge=1)] = 256  # requests that wait for a disk's thread; more: busy
    queue_bytes_max: Annotated[int, msgspec.Meta(ge=8 * MIB)] = 128 * MIB  # and their payloads
    commit_bytes_max: Annotated[int, msgspec.Meta(ge=1)] = 32 * MIB  # gathered for one fdatasync at most
    open_wait_s: Annotated[float, msgspec.Meta(ge=0)] = 2.0  # listen after this long even if a disk still recovers
    drain_s: Annotated[float, msgspec.Meta(ge=0)] = 20.0  # after SIGTERM, time for what is queued

    def disk_name(self, disk: DiskConfig) -> DiskName:
        return DiskName(Path(disk.path), self.cluster_id, self.name, disk.id)

    def disk_settings(self) -> DiskSettings:
        return DiskSettings(
            store=StoreSettings(self.volume_bytes, self.trash_keep_s, self.reserve_bytes),
            thresholds=Thresholds(self.warn_percent, self.no_repair_percent, self.no_writes_percent),
            queue_jobs_max=self.queue_jobs_max,
            queue_bytes_max=self.queue_bytes_max,
            commit_bytes_max=self.commit_bytes_max,
        )


def load_config(path: str | os.PathLike[str]) -> NodeConfig:
    """Read and check node.toml. Raises ConfigError."""
    config = load_toml(path, NodeConfig)
    if not config.disks:
        raise ConfigError(f"In {os.fspath(path)}, a node needs at least one [[disks]] table.")
    for what, values in (("path", [disk.path for disk in config.disks]), ("id", [disk.id for disk in config.disks])):
        if len(set(values)) != len(values):
            raise ConfigError(f"In {os.fspath(path)}, two disks have the same {what}.")
    for key in config.coordinator_keys:
        if len(key) != 40:
            raise ConfigError(
                f'In {os.fspath(path)}, "{key}" in coordinator_keys is not a public key of 40 characters.'
            )
    return config


class NodeKeys(msgspec.Struct, frozen=True):
    """CURVE keys in Z85."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"NodeKeys({self.public!r})"


def load_keys(path: str | os.PathLike[str]) -> NodeKeys:
    """Read the secret key file and derive the public key. Raises ConfigError."""
    try:
        mode = os.stat(path).st_mode & 0o777
        secret = Path(path).read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"The secret key file {os.fspath(path)} cannot be read: {error.strerror}.") from error
    if mode & 0o077:
        raise ConfigError(f"The secret key file {os.fspath(path)} may be read by others; change its mode to 0600.")
    try:
        return NodeKeys(zmq.curve_public(secret), secret)
    except (zmq.ZMQError, ValueError) as error:
        raise ConfigError(f"The secret key file {os.fspath(path)} does not hold a CURVE key in Z85.") from error

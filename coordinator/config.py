"""What coordinator.toml may say. Every key is documented in README.md; an unknown or wrong one stops the daemon."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from coordinator.protocol.types import SIZE_BYTES_MAX

Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=1, le=1 << 44)]


class CoordinatorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One coordinator worker. Secrets are paths to files."""

    cluster_id: Annotated[str, Meta(pattern="^[0-9a-f]{1,64}$")]
    name: Annotated[str, Meta(min_length=1, max_length=100)]  # unique among the workers; the metrics' label `worker`
    site: str
    listen: str  # "127.0.0.1:8443", or "fd:3" for a listening socket that was inherited
    public_url: str
    database: str  # libpq conninfo; a password comes from a passfile
    root_key_file: str
    node_secret_key_file: str
    tls_cert_file: str | None = None  # both or none; none is plain HTTP, for behind a proxy
    tls_key_file: str | None = None
    metrics_listen: str | None = None  # this worker's own metrics; the shared port answers for any one worker
    trusted_proxies: tuple[str, ...] = ()  # addresses whose X-Forwarded-For is believed
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    # Requests.
    upload_bytes_max: Annotated[int, Meta(ge=1, le=SIZE_BYTES_MAX)] = SIZE_BYTES_MAX
    idle_connection_s: Annotated[float, Meta(ge=1, le=3600)] = 120.0
    drain_s: Seconds = 30.0  # how long running requests may take after SIGTERM

    # Work done beside the event loop.
    database_threads: Annotated[int, Meta(ge=1, le=64)] = 4  # each holds one connection
    database_queue_max: Count = 2048  # transactions that may wait; a restart makes every client ask at once
    cpu_threads: Annotated[int, Meta(ge=0, le=256)] = 0  # 0: as many as there are cores
    cpu_queue_max: Count = 1024
    blocks_in_flight_bytes_max: Bytes = 24 * 1024 * 1024  # blocks on their way in, and as much again on their way out

    # Long polls.
    longpolls_max: Count = 20_000
    longpoll_poll_s: Annotated[float, Meta(ge=0.05, le=60)] = 1.0  # how late a lost database notice is made up for
    device_seen_s: Annotated[float, Meta(ge=0.1, le=3600)] = 30.0  # how often devices with open long polls are checked

    # Logins: attempts that failed within a minute, for each account and for each address.
    login_failures_per_account_max: Count = 10
    login_failures_per_address_max: Count = 30

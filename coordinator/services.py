"""What a worker's request handlers and jobs work with; made once by daemon.py and passed down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.blocks.awaited import AwaitedBlocks
    from coordinator.blocks.cpu import CpuPool
    from coordinator.blocks.store import BlockStore
    from coordinator.config import CoordinatorConfig
    from coordinator.jobs.runner import Runner
    from coordinator.metadata.db import Door
    from coordinator.notify.hub import Hub
    from coordinator.passwords import LoginGuard
    from coordinator.staging import StagingRoom
    from node.base.clock import Clock


@dataclass(frozen=True)
class Services:
    """`db` reaches PostgreSQL, `store` the nodes, `hub` everyone who waits for changes, `cpu` the thread pool;
    `runner` runs the background jobs; `awaited` wakes who waits for a block; `staging` bounds what is sent by hash."""

    config: CoordinatorConfig
    db: Door
    store: BlockStore
    hub: Hub
    cpu: CpuPool
    clock: Clock
    runner: Runner
    logins: LoginGuard
    awaited: AwaitedBlocks
    staging: StagingRoom

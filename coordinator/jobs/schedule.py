"""Which jobs there are, how often they run, and with what."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence

from coordinator.blocks.store import BlockStore
from coordinator.jobs.collect import CollectRules, collect
from coordinator.jobs.expiry import ExpiryRules, expire
from coordinator.jobs.membership import watch_membership
from coordinator.jobs.repair import repair
from coordinator.jobs.retention import RetentionRules, retain
from coordinator.jobs.runner import Job, Runner
from coordinator.jobs.scrub import scrub
from coordinator.jobs.verify import verify
from coordinator.metadata.db import Door
from coordinator.metadata.values import Head
from coordinator.notify.hub import Hub
from node.base.clock import Clock

_MINUTE_S = 60.0
_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S


def make_runner(worker: str, db: Door, store: BlockStore, hub: Hub, clock: Clock) -> Runner:
    """The runner of one worker; `worker` is its configured name."""

    def publish(heads: Sequence[Head]) -> None:
        for head in heads:
            hub.published(head.namespace_id, head.seq)

    jobs = [
        Job("membership", 10.0, lambda _: watch_membership(db, store)),
        Job("repair", 10.0, lambda _: repair(db, store)),
        Job("expire", _MINUTE_S, lambda _: expire(db, publish, ExpiryRules())),
        Job("collect", _HOUR_S, lambda lease: collect(db, lease, store.inventory.trash, CollectRules())),
        Job("retain", _HOUR_S, lambda lease: retain(db, lease, clock, RetentionRules())),
        Job("verify", _DAY_S, lambda _: verify(db, store.inventory, store.nodes.map)),
        Job("scrub", 14 * _DAY_S, lambda _: scrub(db, store.inventory)),
    ]
    # The name must be this process's own across restarts: a lease of its predecessor is not its lease.
    return Runner(db, f"{worker}-{os.getpid()}-{secrets.token_hex(4)}", jobs)

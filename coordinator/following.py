"""Devices follow what another one uploads: blocks on their way in are remembered and told, across all workers.

The first request for a block of an announced version tells every worker that the account is followed. From then on, for
a while, each of them remembers the account's new blocks and tells the others of each one: who waits is woken, and reads
it from there. All of it is hints: what is lost shows at the next look into the database, and is read from the nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from coordinator.blocks.recent import Plain
from coordinator.metadata.values import AccountId, BlockRow
from coordinator.services import Services

_FOLLOWED: Final = "account followed"
_ARRIVED: Final = "block arrived"


def subscribe(services: Services) -> None:
    """Take part in what the workers tell each other. Call once, at the start."""

    def followed(payload: str) -> None:
        services.store.recent.want(AccountId(int(payload)))

    def arrived(payload: str) -> None:
        account_id, digest, block_id, address = payload.split()
        services.store.siblings.note(bytes.fromhex(block_id), address)
        services.awaited.recorded(AccountId(int(account_id)), [bytes.fromhex(digest)])

    services.hub.subscribe(_FOLLOWED, followed)
    services.hub.subscribe(_ARRIVED, arrived)


def follow(services: Services, account_id: AccountId) -> None:
    """Somebody reads what this account announces."""
    if services.store.recent.want(account_id):
        services.hub.publish(_FOLLOWED, str(account_id))


def tell_arrived(services: Services, account_id: AccountId, rows: Sequence[BlockRow], plain: Sequence[Plain]) -> None:
    """These blocks are durable and recorded, and their bytes are not changed any more; who follows the account gets
    them from here."""
    store = services.store
    if store.recent.wants(account_id):
        for row, content in zip(rows, plain, strict=True):
            store.recent.put(row.block_id, content)
            told = (str(account_id), row.hash.hex(), row.block_id.hex(), store.siblings.address)
            services.hub.publish(_ARRIVED, " ".join(told))
    services.awaited.recorded(account_id, [row.hash for row in rows])

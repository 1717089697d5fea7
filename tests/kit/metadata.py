"""People and their files, straight through the metadata functions on the calling thread's connection.

No byte is stored anywhere: a block is a row whose hash is made from a label. All blocks of a file but the last count as
4 MiB, as the rules want it, so that a file of any size costs a test nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from coordinator import access
from coordinator.metadata import accounts, blocks, commits, db
from coordinator.metadata.values import (
    AccountId,
    BlockRow,
    DiskLayout,
    Entry,
    FileWrite,
    GroupId,
    Head,
    Layout,
    NamespaceId,
    NewBlock,
    NodeLayout,
    Session,
    Target,
    User,
)
from coordinator.protocol.errors import ApiError
from coordinator.protocol.hashing import BLOCK_BYTES
from coordinator.protocol.types import Role

T = TypeVar("T")

_numbers = itertools.count(1)


def block_hash(label: str, plain_size: int) -> bytes:
    return hashlib.sha256(f"{label}:{plain_size}".encode()).digest()


def new_block(account_id: AccountId, label: str, plain_size: int, missing: tuple[int, ...] = ()) -> NewBlock:
    """A block under a new id, as after a durable write."""
    return NewBlock(
        BlockRow(
            block_id=next(_numbers).to_bytes(16, "big"),
            hash=block_hash(label, plain_size),
            group_id=GroupId(1),
            group_epoch=1,
            k=4,
            m=2,
            codec=1,
            plain_size=plain_size,
            sealed_size=plain_size + 16,
            sealed_digest=bytes(16),
            account_id=account_id,
            wrapped_key=bytes(40),
        ),
        missing,
    )


@dataclass
class Person:
    """A user with one device. `labels` name blocks: ("a", "b") is a file of one full block and a last one of 100."""

    user: User
    token_hash: bytes
    session: Session

    @property
    def home(self) -> NamespaceId:
        return next(mount.namespace_id for mount in self.session.mounts if not mount.path)

    def refresh(self) -> Session:
        session = accounts.get_session(self.token_hash)
        assert session is not None
        self.session = session
        return session

    def at(self, path: str, need: Role = Role.EDITOR) -> Target:
        return access.resolve(self.session, path, need)

    def write(
        self, path: str, *labels: str, base: int | None = None, last: int = 100, need: Role = Role.EDITOR
    ) -> FileWrite:
        sizes = [BLOCK_BYTES] * (len(labels) - 1) + [last] * bool(labels)
        return FileWrite(
            target=self.at(path, need),
            size_bytes=sum(sizes),
            hashes=tuple(block_hash(label, size) for label, size in zip(labels, sizes, strict=True)),
            base_version=base,
        )

    def send(self, path: str, *labels: str, last: int = 100, upload_id: str | None = None) -> list[BlockRow]:
        """Record the blocks of such a file."""
        target = self.at(path)
        sizes = [BLOCK_BYTES] * (len(labels) - 1) + [last] * bool(labels)
        new = [new_block(target.account_id, label, size) for label, size in zip(labels, sizes, strict=True)]
        return blocks.record(target.account_id, target.namespace_id, self.session.user_id, upload_id, new)

    def commit(self, *writes: FileWrite, key: str | None = None) -> list[Entry | ApiError]:
        return list(commits.commit_files(self.session, writes, key).results)

    def put(self, path: str, *labels: str, base: int | None = None, last: int = 100) -> Entry:
        """Send and commit; raises what the commit was refused with."""
        self.send(path, *labels, last=last)
        [result] = self.commit(self.write(path, *labels, base=base, last=last))
        if isinstance(result, ApiError):
            raise result
        return result

    def usage(self) -> tuple[int, int]:
        """Used and pending bytes."""
        usage = accounts.get_usage(self.user.account_id)
        return usage.used_bytes, usage.pending_bytes


def add_person(email: str = "anna@example.org", quota_bytes: int = 10**12, is_admin: bool = False) -> Person:
    user = accounts.add_user(email, "argon2", bytes(40), quota_bytes=quota_bytes, is_admin=is_admin)
    token_hash = hashlib.sha256(email.encode()).digest()
    accounts.add_device(user.id, "laptop", token_hash)
    session = accounts.get_session(token_hash)
    assert session is not None
    return Person(user, token_hash, session)


def share(owner: Person, name: str, **members: tuple[Person, Role]) -> NamespaceId:
    """A shared tree of `owner`, mounted as /name for each of the members."""
    namespace_id = accounts.add_namespace(owner.user.account_id, name)
    for person, role in members.values():
        accounts.add_member(namespace_id, person.user.id, role, f"/{name}")
        person.refresh()
    return namespace_id


def in_parallel(conninfo: str, *calls: Callable[[], T]) -> list[T | BaseException]:
    """Run each call in a thread with a connection of its own, all released at once; results or what was raised."""
    barrier = threading.Barrier(len(calls))
    results: list[T | BaseException] = [AssertionError("did not run")] * len(calls)

    def work(number: int, call: Callable[[], T]) -> None:
        try:
            with db.connected(conninfo, timeout_s=20.0):
                barrier.wait(20)
                results[number] = db.repeated(call, time.monotonic() + 20)  # as the door does it
        except BaseException as error:  # noqa: BLE001  # the test looks at it
            results[number] = error

    threads = [threading.Thread(target=work, args=(number, call)) for number, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def check_accounts() -> None:
    """The books agree with the rows: used bytes with reachable files, pending with uploads, heads with journals."""
    wrong = db.rows(
        """WITH RECURSIVE live AS (
               SELECT f.namespace_id, f.id, f.is_folder, f.size_bytes FROM file f JOIN namespace n ON n.root_id = f.id
               UNION ALL
               SELECT f.namespace_id, f.id, f.is_folder, f.size_bytes FROM file f JOIN live l
               ON l.namespace_id = f.namespace_id AND l.id = f.parent_id WHERE f.deleted_at IS NULL
           )
           SELECT a.id, a.used_bytes, a.pending_bytes,
                  coalesce((SELECT sum(l.size_bytes) FROM live l JOIN namespace n ON n.id = l.namespace_id
                            WHERE n.account_id = a.id), 0) AS used,
                  coalesce((SELECT sum(u.reserved_bytes) FROM upload u
                            WHERE u.account_id = a.id AND u.state = 'pending'), 0) AS pending
           FROM user_account a"""
    )
    for account, used, pending, real_used, real_pending in wrong:
        assert (used, pending) == (real_used, real_pending), f"account {account}"
    for namespace, head, count, last in db.rows(
        """SELECT n.id, n.journal_seq - n.journal_floor, count(j.seq), max(j.seq) - n.journal_floor
           FROM namespace n LEFT JOIN journal j ON j.namespace_id = n.id GROUP BY n.id"""
    ):
        assert head == count == (last or 0), f"the journal of namespace {namespace} has gaps"


def heads_of(changes: Sequence[Head]) -> dict[int, int]:
    return {head.namespace_id: head.seq for head in changes}


def make_layout(
    nodes: int = 6, disks: int = 1, sites: Sequence[str] = ("s1",), cluster: str = "c1", port: int = 5700
) -> Layout:
    return Layout(
        cluster,
        4,
        2,
        tuple(
            NodeLayout(
                f"{site}-n{node}",
                site,
                f"tcp://127.0.0.1:{port + node}",
                "k" * 40,
                tuple(DiskLayout(f"{site}-{node}-{disk}", f"/d{disk}") for disk in range(disks)),
            )
            for site in sites
            for node in range(nodes)
        ),
    )

"""The key hierarchy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator.blocks.keys import AccountKeys, BadRootKey, RootKey
from coordinator.metadata.values import AccountId
from coordinator.protocol.errors import BlockDamaged


def test_account_keys_open_with_their_root_key_only(tmp_path: Path) -> None:
    file = tmp_path / "root.key"
    file.write_text("ab" * 32 + "\n")
    root = RootKey.read(file)
    wrapped = root.make_account_key()
    assert len(wrapped) == 40
    assert len(root.open_account_key(wrapped)) == 32
    with pytest.raises(BadRootKey):
        RootKey(bytes(32)).open_account_key(wrapped)
    assert "ab" * 4 not in repr(root)


@pytest.mark.parametrize("text", ["", "zz" * 32, "ab" * 31])
def test_an_unusable_root_key_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "root.key"
    file.write_text(text)
    with pytest.raises(BadRootKey):
        RootKey.read(file)


def test_account_keys_are_read_once_and_a_destroyed_one_shreds() -> None:
    root = RootKey(bytes(range(32)))
    stored: dict[AccountId, bytes | None] = {AccountId(1): root.make_account_key(), AccountId(2): None}
    reads: list[AccountId] = []

    async def fetch(account: AccountId) -> bytes | None:
        reads.append(account)
        return stored[account]

    async def run() -> None:
        keys = AccountKeys(root, fetch)
        assert await keys.get(AccountId(1)) == await keys.get(AccountId(1))
        assert reads == [AccountId(1)]
        with pytest.raises(BlockDamaged):
            await keys.get(AccountId(2))

    asyncio.run(run())

"""One short process that readies the database: schema, sites and nodes, the administrator's account.

`python -m coordinator.appliance.database --data DIR --conninfo CONNINFO`. Run at every start: each step does only what
is missing, so an interrupted run is completed by the next. A process of its own so that the supervisor, which lives on,
never loads the libraries for it.
"""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from coordinator.appliance.layout import ADMIN_EMAIL, Layout, Paths, decode_layout, parse_code
from coordinator.appliance.postgres import DATABASE
from coordinator.appliance.programs import node_address, read_public_key
from coordinator.blocks.keys import RootKey
from coordinator.metadata import accounts, db, groups, values
from coordinator.metadata.schema.migrate import migrate
from coordinator.passwords import hash_password
from node.base.durable import write_file_durably

_PASSWORD_BYTES: Final = 18


def create_database(conninfo: str) -> None:
    """Create the database when it is not there; `conninfo` is that of the database itself."""
    with psycopg.connect(conninfo, dbname="postgres", autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def describe_cluster(layout: Layout, paths: Paths) -> values.Layout:
    """The layout in the words of the metadata. Raises OSError when a node's public key is missing."""
    k, m = parse_code(layout.code)
    nodes = tuple(
        values.NodeLayout(
            name=node.name,
            site=node.site,
            address=node_address(node),
            public_key=read_public_key(paths.node_key(node.name)),
            disks=tuple(values.DiskLayout(disk.id, str(paths.root / disk.path)) for disk in node.disks),
        )
        for node in layout.nodes
    )
    return values.Layout(layout.cluster_id, k, m, nodes)


def ensure_administrator(paths: Paths) -> None:
    """Make the administrator's account unless there is one; its first password then lies in a file."""
    if accounts.get_user(ADMIN_EMAIL) is not None:
        return
    if not paths.admin_password.exists():
        write_file_durably(paths.admin_password, secrets.token_urlsafe(_PASSWORD_BYTES).encode() + b"\n", mode=0o600)
    password = paths.admin_password.read_text().strip()
    account_key = RootKey.read(paths.root_key).make_account_key()
    accounts.add_user(ADMIN_EMAIL, hash_password(password), account_key, name="Administrator", is_admin=True)


def main() -> None:
    """The process's entry point."""
    parser = argparse.ArgumentParser(prog="coordinator.appliance.database")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--conninfo", required=True)
    arguments = parser.parse_args()
    paths = Paths(arguments.data)
    layout = decode_layout(paths.layout.read_bytes())
    create_database(arguments.conninfo)
    migrate(arguments.conninfo)
    with db.connected(arguments.conninfo):
        groups.bootstrap(describe_cluster(layout, paths))
        ensure_administrator(paths)


if __name__ == "__main__":
    main()

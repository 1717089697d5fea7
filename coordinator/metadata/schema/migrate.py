"""Bring a database to the current schema: numbered scripts, each applied once and recorded.

Guarantees: several processes may call `migrate` at once (an advisory lock lets one work while the others wait); a
script and its record are one transaction, so that a crash leaves the schema before or after it, never between.
Scripts that have been released are never edited: a change is a new number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from playhouse.migrations import Runner

from coordinator.metadata import db

_LOCK: Final = 0x686F6C64_66617374  # "holdfast"
_HERE: Final = Path(__file__).parent


def migrate(conninfo: str, timeout_s: float = 300.0) -> list[str]:
    """Apply what is missing and name it. Raises psycopg.Error when the database cannot be reached or a script fails."""
    with db.connected(conninfo, timeout_s):
        db.rows("SELECT pg_advisory_lock(%s)", (_LOCK,))
        try:
            return list(Runner(db.database, str(_HERE), table_name="schema_migration").up())
        finally:
            db.rows("SELECT pg_advisory_unlock(%s)", (_LOCK,))


def list_missing() -> list[str]:
    """The scripts that this program knows and the database has not seen; run it through the door."""
    runner = Runner(db.database, str(_HERE), table_name="schema_migration")
    return [script.name for script in runner.status() if script.applied is None]


def run_sql(name: str) -> None:
    """Run a file of this folder as it stands: for the scripts here."""
    # Without parameters psycopg sends the text unparsed, so that it may hold several statements and per cent signs.
    db.connection().execute((_HERE / name).read_bytes())

"""All tables, their rules and the append-only triggers."""

from coordinator.metadata.schema.migrate import run_sql


def up(_migrator: object, _database: object) -> None:
    run_sql("0001_tables.sql")

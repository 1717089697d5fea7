"""What is deleted in one go, so that very much of it can be undone."""

from coordinator.metadata.schema.migrate import run_sql


def up(_migrator: object, _database: object) -> None:
    run_sql("0005_mass_delete.sql")

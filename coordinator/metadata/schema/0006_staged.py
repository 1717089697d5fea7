"""What one person sent by hash is found."""

from coordinator.metadata.schema.migrate import run_sql


def up(_migrator: object, _database: object) -> None:
    run_sql("0006_staged.sql")

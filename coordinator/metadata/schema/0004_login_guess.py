"""Wrong passwords, counted by all workers together."""

from coordinator.metadata.schema.migrate import run_sql


def up(_migrator: object, _database: object) -> None:
    run_sql("0004_login_guess.sql")

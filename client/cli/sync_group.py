"""`holdfast sync`: a command of its own with DIR, and a group of those around it (`holdfast sync select DIR` …).

A folder that is called like one of them is given as `./select`.
"""

from __future__ import annotations

import click

from client.cli.sync import sync as run
from client.cli.sync_forget import forget
from client.cli.sync_install import install, uninstall
from client.cli.sync_select import select


class _SyncGroup(click.Group):
    """What is not the name of a command belongs to `default`."""

    def __init__(self, *, default: click.Command) -> None:
        super().__init__(
            name="sync",
            help=default.help,
            commands=[select, install, uninstall, forget],
            context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
        )
        self.default = default

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return "", self.default, args

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with click.Context(self.default, info_name=ctx.info_name, parent=ctx.parent) as inner:
            self.default.format_help(inner, formatter)
        self.format_commands(ctx, formatter)


sync = _SyncGroup(default=run)

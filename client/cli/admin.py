"""`holdfast admin`: running the service, for administrators who are logged in."""

from __future__ import annotations

import re
from typing import Final

import click
import msgspec

from client.cli.ask import read_password
from client.cli.output import human_size, human_time, plain, write_line, write_table
from client.cli.session import ServiceCommand, Session
from client.errors import UsageProblem
from coordinator.protocol.types import AddUserBody, AdminStatus, JobReport, User

_UNITS: Final = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 1 << 10,
    "MI": 1 << 20,
    "GI": 1 << 30,
    "TI": 1 << 40,
}
_SIZE: Final = re.compile(r"^([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?)B?$", re.ASCII | re.IGNORECASE)
JOBS: Final = {
    "scrub": "Let every node re-read what it holds.",
    "verify": "Read whole files end to end and compare inventories.",
    "collect": "Free the space of what nothing refers to any more.",
    "repair": "Rebuild what is missing or damaged.",
    "retain": "Thin out old versions by the rules.",
}


@click.group()
def admin() -> None:
    """Run the service: status, users, nodes, jobs. For administrators."""


@admin.command(cls=ServiceCommand)
@click.pass_obj
def status(session: Session) -> None:
    """Show sites, nodes, disks, the blocks' safety margins, repair, mirror lag and jobs."""
    answer = session.api.admin_status()
    session.show(msgspec.to_builtins(answer), lambda: _write_status(answer))


@admin.group()
def user() -> None:
    """Accounts."""


@user.command("add", cls=ServiceCommand)
@click.argument("email")
@click.option("--password-file", help="A file whose first line is the password; - is stdin.")
@click.option("--name", help="The person's name.")
@click.option("--quota", help="As 10GB or 500MiB; default: the service's.")
@click.option("--admin", "is_admin", is_flag=True, help="May run the service.")
@click.pass_obj
def add_user(
    session: Session, *, email: str, password_file: str | None, name: str | None, quota: str | None, is_admin: bool
) -> None:
    """Add the account EMAIL."""
    body = AddUserBody(
        email=email,
        password=read_password(password_file),
        name=name,
        quota=parse_size(quota) if quota is not None else None,
        is_admin=is_admin,
    )
    _show_users(session, session.api.add_user(body))


@user.command("list", cls=ServiceCommand)
@click.pass_obj
def list_users(session: Session) -> None:
    """List all accounts."""
    users = session.api.users()
    session.show({"users": msgspec.to_builtins(users)}, lambda: write_table([_user_row(one) for one in users]))


@user.command("disable", cls=ServiceCommand)
@click.argument("email")
@click.pass_obj
def disable_user(session: Session, *, email: str) -> None:
    """Sign EMAIL out everywhere and refuse it from now on; its files stay."""
    _show_users(session, session.api.disable_user(email))


@admin.group()
def node() -> None:
    """Storage nodes."""


@node.command("list", cls=ServiceCommand)
@click.pass_obj
def list_nodes(session: Session) -> None:
    """List the storage nodes and their disks."""
    answer = session.api.admin_status()
    document = [{"site": site.name, **msgspec.to_builtins(one)} for site in answer.sites for one in site.nodes]
    session.show({"nodes": document}, lambda: _write_nodes(answer))


def _node_command(action: str, text: str) -> None:
    @node.command(action, cls=ServiceCommand, help=text)
    @click.argument("name")
    @click.pass_obj
    def change_node(session: Session, *, name: str) -> None:
        answer = session.api.change_node(name, action)
        session.show(answer, lambda: write_line(f"{plain(name)}: {action} is under way."))


_node_command("drain", "Move everything off the node NAME, before it is switched off.")
_node_command("remove", "Forget the node NAME after it was drained.")


def _job_command(name: str, text: str) -> None:
    @admin.command(name, cls=ServiceCommand, help=text + " The service does so by itself; --now does it at once.")
    @click.option("--now", is_flag=True, required=True, help="Run it now, wait for it, and report.")
    @click.pass_obj
    def run_job(session: Session, *, now: bool) -> None:
        assert now
        report = session.api.run_job(name)
        session.show(msgspec.to_builtins(report), lambda: _write_report(report))


for _name, _text in JOBS.items():
    _job_command(_name, _text)


def parse_size(text: str) -> int:
    """Bytes in a size as people write it (10GB, 1.5 TiB, 4096). Raises UsageProblem."""
    match = _SIZE.match(text.strip())
    if match is None or match[2].upper() not in _UNITS:
        raise UsageProblem(reason=f"{text!r} is not a size; write it as 10GB or 500MiB.")
    whole, _, fraction = match[1].partition(".")
    unit = _UNITS[match[2].upper()]
    return int(whole) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)


def _show_users(session: Session, one: User) -> None:
    session.show(msgspec.to_builtins(one), lambda: write_table([_user_row(one)]))


def _user_row(one: User) -> tuple[str, ...]:
    state = "disabled" if one.disabled else "administrator" if one.is_admin else "user"
    return plain(one.email), plain(one.name), state, f"{human_size(one.used)} of {human_size(one.quota)}"


def _write_status(answer: AdminStatus) -> None:
    _write_nodes(answer)
    write_line("")
    write_line(f"{answer.blocks.total} blocks")
    for margin, count in sorted(answer.blocks.by_margin.items(), key=lambda item: int(item[0])):
        if int(margin) < 0:
            write_line(f"  {count} cannot be read now: too many of their shards are lost or on silent disks")
        else:
            write_line(f"  {count} survive {margin} more lost shards")
    write_line(f"repair: {answer.repair.queued} queued; mirror: {answer.mirror.lag_s:.0f} s behind")
    write_table(
        [(job.name, job.outcome or "running", human_time(job.finished_at or job.started_at)) for job in answer.jobs]
    )


def _write_nodes(answer: AdminStatus) -> None:
    rows = [
        (
            plain(site.name),
            plain(one.name),
            one.state,
            disk.state,
            f"{human_size(disk.used)} of {human_size(disk.size)}",
            plain(disk.path),
        )
        for site in answer.sites
        for one in site.nodes
        for disk in one.disks
    ]
    write_table(rows, right=frozenset({4}))


def _write_report(report: JobReport) -> None:
    write_line(f"{report.job}: finished in {report.took_s:.1f} s")
    for title, counts in (("found", report.found), ("done", report.done)):
        write_line(f"  {title}: " + (", ".join(f"{name} {count}" for name, count in counts.items()) or "nothing"))

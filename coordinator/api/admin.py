"""Administration: accounts, what state the cluster is in, and running a job now."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from coordinator.api.base import ApiHandler
from coordinator.api.routes import RouteSpec, operation
from coordinator.blocks.keys import RootKey
from coordinator.metadata import accounts, blocks, groups, leases, notifications
from coordinator.metadata.values import QUOTA_BYTES_DEFAULT, ClusterMap, NodeId
from coordinator.metadata.values import User as UserValue
from coordinator.passwords import hash_password
from coordinator.protocol.types import (
    AddUserBody,
    AdminStatus,
    BlockMargins,
    DisableUserBody,
    DiskRow,
    JobReport,
    JobRow,
    MirrorRow,
    NodeRow,
    RepairRow,
    SiteRow,
    User,
    UserList,
)

# Counting every block takes a while in a large cluster, and so does a job.
COUNT_TIMEOUT_S: Final = 120.0


class AdminHandler(ApiHandler):
    admin_required = True

    async def audit(self, action: str, **facts: object) -> None:
        """Write down who did this."""
        await self.services.db.run(notifications.audit, self.session.user_id, self.session.device_id, action, facts)


class Users(AdminHandler):
    @operation("All accounts", answer=UserList)
    async def get(self) -> None:
        users = await self.services.db.run(accounts.list_users)
        self.answer(UserList(users=[_user_body(user) for user in users]))

    @operation("Make an account", body=AddUserBody, answer=User, status=201)
    async def post(self) -> None:
        body, services = self.body(AddUserBody), self.services
        password_hash = await services.cpu.run(hash_password, body.password)
        account_key = await services.cpu.run(_make_account_key, services.config.root_key_file)
        user = await services.db.run(
            accounts.add_user,
            body.email,
            password_hash,
            account_key,
            name=body.name,
            quota_bytes=QUOTA_BYTES_DEFAULT if body.quota is None else body.quota,
            is_admin=body.is_admin,
        )
        await self.audit("user.add", user=user.id, is_admin=user.is_admin)
        self.answer(_user_body(user), 201)


class DisableUser(AdminHandler):
    @operation("Sign a user out everywhere for good", body=DisableUserBody, answer=User)
    async def post(self) -> None:
        user = await self.services.db.run(accounts.disable_user, self.body(DisableUserBody).email)
        await self.audit("user.disable", user=user.id)
        self.answer(_user_body(user))


class Status(AdminHandler):
    @operation("Sites, nodes, disks, blocks by margin, queues and jobs", answer=AdminStatus)
    async def get(self) -> None:
        db, store = self.services.db, self.services.store
        cluster = await db.run(groups.load_map)
        margins = await db.run_within(COUNT_TIMEOUT_S, blocks.count_by_margin, store.nodes.silent_slots())
        queued = await db.run(blocks.count_missing)
        jobs = await db.run(leases.list_jobs)
        answering = {node_id for node_id, (answers, _) in store.nodes.statuses().items() if answers}
        self.answer(
            AdminStatus(
                sites=_site_rows(cluster, answering),
                blocks=BlockMargins(
                    total=sum(margins.values()),
                    by_margin={str(margin): count for margin, count in sorted(margins.items())},
                ),
                repair=RepairRow(queued=queued),
                mirror=MirrorRow(lag_s=0.0),
                jobs=[
                    JobRow(
                        name=job.name,
                        holder=job.holder,
                        started_at=job.started_at,
                        finished_at=job.finished_at,
                        outcome=job.outcome,
                    )
                    for job in jobs
                ],
            )
        )


class RunJob(AdminHandler):
    @operation("Run a background job now and wait for its end", answer=JobReport)
    async def post(self, job: str) -> None:
        ran = await self.services.runner.run_now(job)
        await self.audit("job.run", job=job)
        found, done = dict(ran.swept.found), dict(ran.swept.done)
        self.answer(JobReport(job=ran.job, found=found, done=done, took_s=ran.took_s))


def _site_rows(cluster: ClusterMap, answering: set[NodeId]) -> list[SiteRow]:
    """The map as people read it; a node that should be up and does not answer this worker is "silent"."""
    sites = {site.id: SiteRow(name=site.name, nodes=[]) for site in cluster.sites.values()}
    for node in sorted(cluster.nodes.values(), key=lambda node: node.name):
        state = node.state.value
        disks = [
            DiskRow(id=disk.id, path=disk.path, state=disk.state, size=disk.size_bytes, used=disk.used_bytes)
            for disk in cluster.disks.values()
            if disk.node_id == node.id
        ]
        row = NodeRow(
            name=node.name, state="silent" if state == "up" and node.id not in answering else state, disks=disks
        )
        sites[node.site_id].nodes.append(row)
    return list(sites.values())


def _user_body(user: UserValue) -> User:
    return User(
        id=user.id,
        email=user.email,
        name=user.name,
        is_admin=user.is_admin,
        disabled=user.disabled,
        quota=user.quota_bytes,
        used=user.used_bytes,
        created_at=user.created_at,
    )


def _make_account_key(root_key_file: str) -> bytes:
    return RootKey.read(Path(root_key_file)).make_account_key()


ROUTES: Final = (
    RouteSpec("admin.users", "/api/v1/admin/users", Users),
    RouteSpec("admin.users.disable", "/api/v1/admin/users/disable", DisableUser),
    RouteSpec("admin.jobs", "/api/v1/admin/jobs/{job}", RunJob),
    RouteSpec("admin.status", "/api/v1/admin/status", Status),
)

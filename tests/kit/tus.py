"""Resumable uploads as a client that speaks bare tus 1.0.0 makes them."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from tests.kit.api import BASE, Line, User, connect_database
from tests.kit.cluster import Answer

TUS = {"Tus-Resumable": "1.0.0"}
OCTETS = TUS | {"Content-Type": "application/offset+octet-stream"}


def create(user: User, path: str | bytes, size: int | None = 5, body: bytes | None = None, **more: str) -> Answer:
    """tus's creation; `size` None is told later, `more` are headers with _ for -."""
    raw = path if isinstance(path, bytes) else path.encode()
    headers = TUS if body is None else OCTETS
    headers = headers | ({"Upload-Defer-Length": "1"} if size is None else {"Upload-Length": str(size)})
    headers = headers | {"Upload-Metadata": f"path {base64.b64encode(raw).decode()}"}
    headers = headers | {name.replace("_", "-"): value for name, value in more.items()}
    return user.call("POST", "/uploads", headers=headers, body=body)


def checksum(data: bytes, algorithm: str = "sha1") -> dict[str, str]:
    value = base64.b64encode(hashlib.new(algorithm, data).digest()).decode()
    return {"Upload-Checksum": f"{algorithm} {value}"}


@dataclass
class Upload:
    """One upload of a user; `address` is below /api/v1."""

    user: User
    address: str

    @classmethod
    def begin(cls, user: User, path: str, size: int | None, body: bytes | None = None) -> Upload:
        answer = create(user, path, size, body)
        assert answer.status == 201, answer
        return cls.at(user, answer)

    @classmethod
    def at(cls, user: User, answer: Answer) -> Upload:
        """The upload whose Location this answer tells."""
        return cls(user, answer.headers["Location"].partition(BASE)[2])

    def head(self, **headers: str) -> Answer:
        return self.user.call("HEAD", self.address, headers=TUS | headers)

    @property
    def offset(self) -> int:
        """Where it continues, as the service says."""
        answer = self.head()
        assert answer.status in (200, 204), answer
        return int(answer.headers["Upload-Offset"])

    def patch(self, offset: int, data: bytes, headers: dict[str, str] | None = None) -> Answer:
        sent = OCTETS | {"Upload-Offset": str(offset)} | (headers or {})
        return self.user.call("PATCH", self.address, headers=sent, body=data)

    def send(self, offset: int, data: bytes, headers: dict[str, str] | None = None) -> int:
        """A PATCH that succeeds; the new offset."""
        answer = self.patch(offset, data, headers)
        assert answer.status == 204, answer
        assert int(answer.headers["Upload-Offset"]) == offset + len(data)
        return offset + len(data)

    def cancel(self) -> Answer:
        return self.user.call("DELETE", self.address, headers=TUS)

    # --- over a bare line

    def begin_patch(self, line: Line, offset: int, size: int) -> None:
        """The head of a PATCH; its body of `size` bytes is to be fed."""
        headers = OCTETS | {"Upload-Offset": str(offset), "Content-Length": str(size)}
        line.begin("PATCH", BASE + self.address, headers)

    def offset_over(self, line: Line) -> int:
        """Where it continues, asked over this line."""
        answer = line.ask("HEAD", BASE + self.address, TUS)
        assert answer.status in (200, 204), answer
        return int(answer.headers["Upload-Offset"])

    # --- behind the service's back: asking the service would end the request that is at work

    def recorded(self) -> int:
        """The offset in the database."""
        return self._count("SELECT offset_bytes FROM upload WHERE id = %s")

    def count_parts(self) -> int:
        """How many pieces are kept for it."""
        return self._count("SELECT count(*) FROM upload_block WHERE upload_id = %s")

    def _count(self, query: str) -> int:
        with connect_database(self.user.appliance) as db:
            [(count,)] = db.execute(query, [self.address.rpartition("/")[2]]).fetchall()
        return int(count)

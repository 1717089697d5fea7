"""From the change feed to the remote tree.

Guarantees: pages are absorbed in order, each with its cursor in one transaction, and absorbing one twice changes
nothing. What the feed contradicts itself about leads to a new listing, never to a guess. A listing (the first one, or
after a `reset`) deletes nothing: what it does not tell is forgotten, so that files here are looked at as new.
Does not: fetch (feed.py), decide what the differences mean (plan.py).

Entries are snapshots in the order of the journal. Applying them one after the other gives what folding them by id and
keeping the last would give, without having to restore the order of parents and children.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from client.sync.local.selection import Selection
from client.sync.store.store import Store
from client.sync.tree import Content, LocalNode, PendingUpload, RemoteId, RemoteNode, Stamp, pair_of
from coordinator.protocol.errors import BadPath
from coordinator.protocol.names import check_name, name_key
from coordinator.protocol.types import Change, ChangesAnswer, Kind, Metadata

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_WHOLE_NAMESPACE: Final = 0  # the id in the delete of a share that ended
_PLACES_KEPT: Final = 10_000
SOURCE: Final = "service"  # of the problems that this module tells
NO_STAMP: Final = Stamp(0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Absorbed:
    """What a page brought that the trees do not tell.

    `root_gone`: the synced folder was deleted in the service. `announced`: versions that are on their way, told where
    the journal ends: until then the end of each of them may be in a later change.
    """

    root_gone: bool = False
    announced: tuple[PendingUpload, ...] = ()


class Contradiction(Exception):
    """The feed told something that cannot be: the tree must be listed anew."""


class RemoteSide:
    """Writes the remote tree. Belongs to the control thread.

    `own_device_id`: versions that this device announces are none to wait for. `_places` remembers where folders are
    (their names from the root down) and whether they are left out; it is emptied whenever one changes. `_told` is at
    which page (`tick`) the feed last told something about a node. `_announced` are, by upload, the announcements since
    the feed was last at the journal's end that have not ended yet.
    """

    def __init__(self, store: Store, selection: Selection, own_device_id: int | None = None) -> None:
        self._store = store
        self.selection = selection
        self._own_device_id = own_device_id
        self._listing = False
        self.tick = 0
        self.listed_anew_at = 0  # the page since which older news and answers say nothing any more
        self.gone_seen = 0  # how often the feed told that something is not there any more
        self._told: dict[RemoteId, int] = {}
        self._announced: dict[str, PendingUpload] = {}
        self._places: dict[RemoteId, tuple[tuple[str, ...] | None, bool]] = {}

    # --- where the feed stands ----------------------------------------------------------------------------------

    @property
    def cursor(self) -> str | None:
        return self._store.fact("cursor")

    @property
    def is_listing(self) -> bool:
        """Whether the tree is being told as a whole: until its end nothing follows from what is missing."""
        return self._store.fact("listing") is not None or self.cursor is None

    @property
    def to_list(self) -> list[RemoteId]:
        """Folders that came into the synced folder from elsewhere: their contents are not known yet."""
        text = self._store.fact("to_list") or ""
        return [RemoteId(int(word)) for word in text.split()]

    @property
    def root_path(self) -> str:
        """Where the synced folder is in the service's tree; "/" for the whole."""
        return self._store.fact("remote_path") or "/"

    @property
    def root_id(self) -> RemoteId | None:
        """The synced folder's id, once it is known."""
        return self._store.remote_root or None

    def begin(self, root: Metadata) -> None:
        """Sync the service's folder `root` from now on: the store must be empty or of the same folder."""
        store = self._store
        with store.transaction():
            if store.remote_root != root.id:
                assert not store.remote_root, "a synced folder keeps its remote folder"
                store.set_remote_root(RemoteId(root.id), NO_STAMP)
            store.set_fact("remote_path", root.path)
            if self.cursor is None:
                self._begin_listing()

    def relist(self) -> None:
        """Forget the cursor: the whole tree is to be told anew."""
        with self._store.transaction():
            self._store.set_fact("cursor", None)
            self._begin_listing()

    def _begin_listing(self) -> None:
        self._announced.clear()
        self._store.begin_listing()
        self._store.set_fact("listing", "1")

    # --- answers beside the feed --------------------------------------------------------------------------------

    def put_answer(self, node: RemoteNode, asked_at: int) -> None:
        """The service's answer to a call that began at the page `asked_at`. When the feed has told something about the
        node since, that may be newer than the answer; if it is not, the feed tells the rest as well."""
        if self._told.get(node.id, 0) <= asked_at:
            self._write(node, self._store.remote(node.id))

    def drop_answer(self, node_id: RemoteId, asked_at: int) -> None:
        """The same for a node that is gone."""
        if self._told.get(node_id, 0) <= asked_at:
            self._drop(node_id)

    def forget_told(self) -> None:
        """No call is under way that an older page could matter to."""
        self._told.clear()

    # --- paths --------------------------------------------------------------------------------------------------

    def path(self, node_id: RemoteId) -> str | None:
        """The node's path in the service's tree, as last known; None for what is not known."""
        names = self._store.remote_path(node_id)
        return None if names is None else join(self.root_path, *names)

    def child_path(self, parent_id: RemoteId, name: str) -> str | None:
        above = self.path(parent_id)
        return None if above is None else join(above, name)

    # --- the feed -----------------------------------------------------------------------------------------------

    def absorb(self, page: ChangesAnswer) -> Absorbed:
        """Write one page and its cursor."""
        store = self._store
        self._places.clear()
        self.tick += 1
        root_gone = False
        try:
            with store.transaction():
                if page.reset:
                    self.listed_anew_at = self.tick
                    self._begin_listing()
                self._listing = store.fact("listing") is not None
                for change in page.changes:
                    root_gone |= self._absorb_change(change)
                store.set_fact("cursor", page.cursor)
                if not page.has_more and self._listing:
                    store.end_listing()
                    store.set_fact("listing", None)
        except Contradiction:
            self.relist()
            return Absorbed()
        return Absorbed(root_gone, () if page.has_more else self._take_announced())

    def _take_announced(self) -> tuple[PendingUpload, ...]:
        announced, self._announced = self._announced, {}
        return tuple(announced.values())

    def _absorb_change(self, change: Change) -> bool:
        """Returns whether the synced folder itself has gone."""
        store = self._store
        self._told[RemoteId(change.id)] = self.tick
        match change.op:
            case "put" | "folder" | "move":
                if change.metadata is None:
                    raise Contradiction(change)
                if change.id == store.remote_root:
                    store.set_fact("remote_path", change.metadata.path)
                else:
                    self._put_told(change, change.metadata)
                    if change.op == "put" and change.device_id == self._own_device_id is not None:
                        self._note_own(RemoteId(change.id))
                if change.upload_id is not None:
                    self._announced.pop(change.upload_id, None)
                    if store.remote(RemoteId(change.id)) is not None and change.device_id != self._own_device_id:
                        store.uploads.note_announced(RemoteId(change.id), change.metadata.version, change.upload_id)
            case "delete":
                node_id = self._lost_root(change) if change.id == _WHOLE_NAMESPACE else RemoteId(change.id)
                if node_id == store.remote_root:
                    return True
                self._drop(node_id)
            case "pending":
                if (row := self._pending_of(change)) is not None:
                    self._announced[row.upload_id] = row
            case "withdrawn":
                if change.upload_id is not None:
                    self._announced.pop(change.upload_id, None)
        return False

    def _note_own(self, node_id: RemoteId) -> None:
        """This computer stored the version, whatever became of the answer: what others make of it next is a change of
        theirs alone."""
        store = self._store
        node, pair = store.remote(node_id), store.synced(node_id)
        if node is None or node.content is None or node.skipped:
            return
        if pair is not None:
            if pair.version < node.version and store.uploads.begun(pair.local_id) == (node_id, node.content):
                store.put_synced(replace(pair, version=node.version, content=node.content))
            return
        for local_id in store.uploads.begun_new(node.content):
            local = store.local(local_id)
            if store.synced_local(local_id) is None and (local is None or self._is_place_of(node, local)):
                store.put_synced(pair_of(node, local_id))  # with no file any more: it was deleted since
                return

    def _is_place_of(self, node: RemoteNode, local: LocalNode) -> bool:
        """Whether both are in the same folder under the same name."""
        folder = None if node.parent_id is None else self._store.synced(node.parent_id)
        return folder is not None and (folder.local_id, node.key) == (local.parent_id, local.key)

    def _lost_root(self, change: Change) -> RemoteId:
        """Where a namespace stood that is not shared with this person any more."""
        if self._store.fact("namespace") == str(change.namespace_id):
            return self._store.remote_root
        return RemoteId(int(self._store.fact(f"mount {change.namespace_id}") or 0))

    def _put_told(self, change: Change, metadata: Metadata) -> None:
        store = self._store
        node_id = RemoteId(change.id)
        known = store.remote(node_id)
        parent_id = self._parent_of(change, metadata)
        if change.parent_id is None:
            store.set_fact(f"mount {change.namespace_id}", str(node_id))
        if parent_id is None:
            # It is outside of the synced folder, or was moved out of it: for this computer it does not exist.
            self._drop(node_id)
            return
        node = self._node_of(metadata, node_id, parent_id, change.name)
        if known is None and node.kind is Kind.FOLDER and change.op == "move":
            self._note_to_list(node_id)
        self._put(node, known, by_us=change.device_id == self._own_device_id is not None)

    def _parent_of(self, change: Change, metadata: Metadata) -> RemoteId | None:
        """The parent inside the synced folder; None for what is outside of it."""
        store = self._store
        if change.parent_id is not None:
            parent = store.remote(RemoteId(change.parent_id))
            if parent is not None and parent.kind is Kind.FOLDER:
                return parent.id
            if self.root_path == "/" and not self._is_foreign(change):
                raise Contradiction(change)  # the whole tree is synced: a parent is always told before its children
            return None
        # The root of another namespace, such as a shared folder: it stands where the person mounted it.
        if self.root_path != "/" or metadata.path in ("", "/"):
            return None
        at = store.remote_root
        for name in metadata.path.strip("/").split("/")[:-1]:
            child = store.remote_child(at, name_key(name))
            if child is None:
                return None
            at = child.id
        return at

    def _is_foreign(self, change: Change) -> bool:
        """Whether the entry is of a namespace other than the synced root's, some part of which may not be mounted."""
        own = self._store.fact("namespace")
        if own is None and change.parent_id == self._store.remote_root:
            self._store.set_fact("namespace", own := str(change.namespace_id))
        return own is not None and own != str(change.namespace_id)

    def _put(self, node: RemoteNode, known: RemoteNode | None, *, by_us: bool = False) -> None:
        store = self._store
        if node.kind is Kind.FOLDER and known is not None and known.parent_id != node.parent_id:
            self._check_no_cycle(node)
        if known is None:
            self._forget_absence(node, by_us=by_us)
        self._write(node, known)
        if self._listing:
            store.note_listed(node.id)
        self._forget_announced(node)

    def _write(self, node: RemoteNode, known: RemoteNode | None) -> None:
        """Where a folder moves, what is in it may be left out now, or not any more."""
        self._store.put_remote(node)
        if node.kind is Kind.FILE or known is None:
            return
        self._places.clear()
        moved = (known.parent_id, known.name) != (node.parent_id, node.name)
        if known.skipped != node.skipped or (moved and not self.selection.plain):
            self._reselect_below(node)

    def _forget_announced(self, node: RemoteNode) -> None:
        """It has arrived, whether or not the feed says that this was it."""
        for row in list(self._announced.values()):
            if (row.content, row.parent_id, row.name) == (node.content, node.parent_id, node.name):
                del self._announced[row.upload_id]

    def _forget_absence(self, node: RemoteNode, *, by_us: bool) -> None:
        """What was deleted and is there again is wanted: that it is not here, or is just on its way to the trash, was
        the answer to the delete and no wish of its own. What was changed here meanwhile keeps its pair, and so does
        what this computer itself has stored again, and deleted since."""
        store = self._store
        pair = store.synced(node.id)
        if pair is None or (by_us and pair.version == node.version):
            return
        local, above = store.local(pair.local_id), store.synced(pair.parent_id) if pair.parent_id is not None else None
        if local is not None:
            moved = above is None or (local.parent_id, local.name) != (above.local_id, pair.name)
            if moved or node.kind is Kind.FOLDER or local.content != node.content:
                return
        store.drop_synced(pair.id)

    def _drop(self, node_id: RemoteId) -> None:
        if self._store.remote(node_id) is not None:
            self.gone_seen += 1
            for gone in self._store.drop_remote(node_id):
                self._told[gone] = self.tick
            self._places.clear()

    def _check_no_cycle(self, node: RemoteNode) -> None:
        at = node.parent_id
        while at is not None:
            if at == node.id:
                raise Contradiction(node)
            above = self._store.remote(at)
            at = above.parent_id if above is not None else None

    def _note_to_list(self, folder_id: RemoteId) -> None:
        waiting = dict.fromkeys([*self.to_list, folder_id])
        self._store.set_fact("to_list", " ".join(map(str, waiting)))

    def _pending_of(self, change: Change) -> PendingUpload | None:
        """The announced version as a row; None when it is of no concern here."""
        metadata, store = change.metadata, self._store
        if change.upload_id is None or metadata is None or metadata.content_hash is None or change.parent_id is None:
            return None
        parent = store.remote(RemoteId(change.parent_id))
        if parent is None or parent.skipped:
            return None
        if change.device_id is not None and change.device_id == self._own_device_id:
            return None
        node = self._node_of(metadata, RemoteId(change.id), parent.id, change.name)
        if node.skipped or node.content is None:
            return None
        return PendingUpload(change.upload_id, node.id, parent.id, node.name, node.size, node.content, change.device_id)

    # --- what did not come through the feed ---------------------------------------------------------------------

    def absorb_listing(self, entries: Iterable[Metadata]) -> None:
        """Some of what is below a folder of `to_list`, parents before children."""
        store = self._store
        self._listing = self.is_listing
        with store.transaction():
            for metadata in entries:
                parent = None if metadata.parent_id is None else store.remote(RemoteId(metadata.parent_id))
                if parent is None:
                    continue  # moved away while this was listed; the feed tells it
                known = store.remote(RemoteId(metadata.id))
                self._put(self.node_of(metadata, parent.id), known)

    def forget_to_list(self, folder_id: RemoteId) -> None:
        """All of it is told, or it is gone again, and the feed tells what became of it."""
        rest = [waiting for waiting in self.to_list if waiting != folder_id]
        with self._store.transaction():
            self._store.set_fact("to_list", " ".join(map(str, rest)) or None)

    def node_of(self, metadata: Metadata, parent_id: RemoteId) -> RemoteNode:
        """What the service answered as a node of the tree."""
        return self._node_of(metadata, RemoteId(metadata.id), parent_id, metadata.path.rpartition("/")[2])

    def _node_of(self, metadata: Metadata, node_id: RemoteId, parent_id: RemoteId, name: str) -> RemoteNode:
        content = None
        if metadata.kind is Kind.FILE:
            if metadata.content_hash is None:
                raise Contradiction(metadata)
            content = Content(bytes.fromhex(metadata.content_hash), metadata.executable)
        node = RemoteNode(
            id=node_id,
            parent_id=parent_id,
            name=name,
            kind=metadata.kind,
            version=metadata.version,
            size=metadata.size,
            content=content,
            mtime_ns=_nanoseconds(metadata.client_modified_at),
        )
        return replace(node, skipped=self._is_skipped(node))

    # --- what is left out here ----------------------------------------------------------------------------------

    def reselect(self, selection: Selection) -> None:
        """The rules or the person's choice changed: look at every node again. Nothing is deleted by that: a node that
        is left out now loses its pair, one that is not any more is met as if it were new."""
        self.selection = selection
        self._places.clear()
        with self._store.transaction():
            for child in list(self._store.remote_children(self._store.remote_root)):
                self._reselect(child)

    def _reselect(self, node: RemoteNode) -> None:
        fresh = replace(node, skipped=self._is_skipped(node))
        if fresh.skipped != node.skipped:
            self._store.put_remote(fresh)
        if node.kind is Kind.FOLDER:
            self._reselect_below(fresh)

    def _reselect_below(self, folder: RemoteNode) -> None:
        for node in self._below(folder.id):
            fresh = replace(node, skipped=self._is_skipped(node))
            if fresh.skipped != node.skipped:
                self._store.put_remote(fresh)

    def _below(self, folder_id: RemoteId) -> Iterator[RemoteNode]:
        """Parents before children; each folder's children are read when it is its turn."""
        waiting = [folder_id]
        while waiting:
            for node in list(self._store.remote_children(waiting.pop())):
                yield node
                if node.kind is Kind.FOLDER:
                    waiting.append(node.id)

    def _is_skipped(self, node: RemoteNode) -> bool:
        assert node.parent_id is not None
        place = self._places.get(node.parent_id)
        if place is None:
            parent = self._store.remote(node.parent_id)
            place = (self._store.remote_path(node.parent_id), parent is None or parent.skipped)
            if len(self._places) >= _PLACES_KEPT:
                self._places.clear()
            self._places[node.parent_id] = place
        names, skipped = place
        if skipped or names is None:
            return True
        return not _is_usable(node.name) or self.selection.is_entry_ignored(names, node.name, node.kind is Kind.FOLDER)


def join(folder: str, *names: str) -> str:
    """A path of the service's tree."""
    return "/".join([folder.rstrip("/"), *names]) or "/"


def _is_usable(name: str) -> bool:
    """What the service says is never trusted with local paths."""
    try:
        check_name(name)
    except BadPath:
        return False
    return True


def _nanoseconds(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND * 1000

"""The daemon: wires configuration, disks, socket and metrics together, and takes them down in order."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from types import FrameType

import zmq

from node.base.clock import Clock, SystemClock
from node.config import NodeConfig, load_keys
from node.server import Server
from node.volumes.changes import Epochs
from node.volumes.disk import Disk
from node.volumes.disk_io import RealDiskIO
from node.volumes.index import read_boot_id

_log = logging.getLogger(__name__)


class CannotListen(Exception):
    """The configured address cannot be bound; the message is a sentence."""


def serve(config: NodeConfig) -> bool:
    """Run the node until SIGTERM or SIGINT; True when everything queued was done and every disk closed cleanly.

    Raises ConfigError and CannotListen.
    """
    keys = load_keys(config.secret_key_file)
    clock = SystemClock()
    epochs = Epochs()
    disks = _start_disks(config, epochs, clock)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        server = Server(
            context=context,
            listen=config.listen,
            keys=keys,
            allowed_keys=config.coordinator_keys,
            cluster_id=config.cluster_id,
            node=config.name,
            disks=disks,
            epochs=epochs,
            clock=clock,
        )
    except zmq.ZMQError as error:
        raise CannotListen(_explain_bind(config.listen, error)) from error
    stop_metrics = _start_metrics(config, disks, server)
    _stop_on_signals(server)
    _log.info("node.ready", extra={"node": config.name, "listen": server.address, "disks": len(disks)})
    server.run()
    _log.info("node.stopping", extra={"node": config.name})
    clean = server.drain(config.drain_s)
    stop_metrics()
    server.close()
    context.term()
    _log.info("node.stopped", extra={"node": config.name, "clean": clean})
    return clean


def _start_disks(config: NodeConfig, epochs: Epochs, clock: Clock) -> dict[str, Disk]:
    """Open all disks side by side. One that recovers for longer than `open_wait_s` says busy until it is there."""
    io, boot_id, settings = RealDiskIO(), read_boot_id(), config.disk_settings()
    disks = {
        disk.id: Disk(config.disk_name(disk), settings=settings, epochs=epochs, clock=clock, io=io, boot_id=boot_id)
        for disk in config.disks
    }
    for disk in disks.values():
        disk.start()
    give_up_at = clock.monotonic() + config.open_wait_s
    for disk in disks.values():
        disk.wait_until_looked_at(max(0.0, give_up_at - clock.monotonic()))
    return disks


def _start_metrics(config: NodeConfig, disks: dict[str, Disk], server: Server) -> Callable[[], None]:
    if config.metrics_listen is None:
        return lambda: None
    from node.metrics import start_metrics  # noqa: PLC0415 - 9 MB that a node without metrics does not need

    return start_metrics(config.metrics_listen, disks, server)


def _stop_on_signals(server: Server) -> None:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def _explain_bind(listen: str, error: zmq.ZMQError) -> str:
    if error.errno != zmq.EADDRNOTAVAIL:
        return f"The node cannot listen on {listen}: {error.strerror}."
    from node.host import list_addresses  # noqa: PLC0415 - pyroute2 is needed for this sentence only

    return f"The node cannot listen on {listen}: this machine has only {', '.join(list_addresses())}."

"""Bytes over the loopback interface, both ends in this process: what TLS, ZeroMQ and CURVE cost by themselves."""

from __future__ import annotations

import datetime
import socket
import ssl
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import zmq
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from node.protocol.messages import Buffer

_TIMEOUT_S: Final = 60.0
_TIMEOUT_MS: Final = 60_000
_RECEIVE_BYTES: Final = 256 * 1024


def send_tls(blocks: Sequence[bytes]) -> None:
    """Send the blocks, one write each, over TLS 1.3 with AES-128-GCM or what OpenSSL prefers; returns when all came."""
    server_context, client_context = _contexts()
    listener = socket.create_server(("127.0.0.1", 0))
    total = sum(map(len, blocks))

    def receive() -> None:
        connection, _ = listener.accept()
        connection.settimeout(_TIMEOUT_S)
        with server_context.wrap_socket(connection, server_side=True) as secured:
            buffer = memoryview(bytearray(_RECEIVE_BYTES))
            rest = total
            while rest:
                rest -= secured.recv_into(buffer)
            secured.sendall(b"!")

    receiver = threading.Thread(target=receive, daemon=True)
    receiver.start()
    with (
        listener,
        socket.create_connection(listener.getsockname(), timeout=_TIMEOUT_S) as plain,
        client_context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        for block in blocks:
            secured.sendall(block)
        if secured.recv(1) != b"!":
            raise RuntimeError("the receiving end broke off")
    receiver.join(_TIMEOUT_S)


def send_zmq(payloads: Sequence[Buffer], *, curve: bool) -> None:
    """Send each payload as one message from a DEALER to a ROUTER over TCP and wait until all have come."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.ROUTER) as server, context.socket(zmq.DEALER) as client:
        for end in (server, client):
            end.setsockopt(zmq.LINGER, 0)
            end.setsockopt(zmq.RCVTIMEO, _TIMEOUT_MS)
            end.setsockopt(zmq.SNDTIMEO, _TIMEOUT_MS)
            end.setsockopt(zmq.SNDHWM, 8)
            end.setsockopt(zmq.RCVHWM, 8)
        if curve:
            _use_curve(server, client)
        client.connect(f"tcp://127.0.0.1:{server.bind_to_random_port('tcp://127.0.0.1')}")
        receiver = threading.Thread(target=_receive, args=(server, len(payloads)), daemon=True)
        receiver.start()
        for payload in payloads:
            client.send(payload, copy=False)
        client.recv()
        receiver.join(_TIMEOUT_S)


def _receive(server: zmq.Socket[bytes], count: int) -> None:
    sender = b""
    for _ in range(count):
        frames = server.recv_multipart(copy=False)
        sender = frames[0].bytes
    server.send_multipart([sender, b"!"])


def _use_curve(server: zmq.Socket[bytes], client: zmq.Socket[bytes]) -> None:
    server_public, server_secret = zmq.curve_keypair()
    client_public, client_secret = zmq.curve_keypair()
    server.setsockopt(zmq.CURVE_SERVER, 1)
    server.setsockopt(zmq.CURVE_SECRETKEY, server_secret)
    client.setsockopt(zmq.CURVE_SERVERKEY, server_public)
    client.setsockopt(zmq.CURVE_PUBLICKEY, client_public)
    client.setsockopt(zmq.CURVE_SECRETKEY, client_secret)


@cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Server and client side with a certificate made for this run."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "both.pem")
        path.write_bytes(secret + pem)
        server.load_cert_chain(path)
    return server, ssl.create_default_context(cadata=pem.decode())

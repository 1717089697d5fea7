"""What do the unavoidable stages of an upload and a download cost on this machine?

Each stage runs alone, through the fastest library call there is and without any of the service's code, on the same mix
of data that `bulk` and `download` use. The sum of CPU seconds per GB of plaintext is the floor that the service as
designed cannot go below: it hashes on both sides, compresses, encrypts, opens what it sealed, codes 4+2, and speaks TLS
to clients and CURVE to nodes. Expected from the stages' speeds on a 2.4 GHz core: upload about 5, download about 4.

A stage's CPU is that of all threads of both ends; its MB/s are megabytes of plaintext per second of wall time.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import xxhash
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench import corpus, loopback
from bench.result import GB, MIB, Options, Outcome, rounded
from coordinator.protocol.hashing import BLOCK_BYTES
from node.protocol.erasure import Code, encode, join
from node.protocol.messages import Buffer

CODE: Final = Code(4, 2)
_NONCE: Final = bytes(12)
_KEY: Final = bytes(range(32))
_SAMPLE_BYTES: Final = 16 * 1024
_STAGE_BYTES: Final = 128 * MIB
_FREE_FOR_S: Final = 4.0

_T = TypeVar("_T")

# How often a stage's work is done for each byte of a file. Digests: sealed block and shards by the coordinator, shards
# by the nodes; on the way back the shards by both. Reading and writing are the client's file.
UPLOAD: Final = {
    "file_read": 1, "sha256": 2, "tls": 1, "zstd_pack": 1, "aes_seal": 1, "aes_open": 1, "zstd_unpack": 1,
    "compare": 1, "code_encode": 1, "xxh3_sealed": 1, "xxh3_shards": 2, "zmq_shards": 1, "curve_shards": 1,
    "disk_write": 1,
}  # fmt: skip
DOWNLOAD: Final = {
    "disk_read": 1, "xxh3_sealed": 2, "zmq_sealed": 1, "curve_sealed": 1, "code_join": 1, "aes_open": 1,
    "zstd_unpack": 1, "sha256": 2, "tls": 1, "file_write": 1,
}  # fmt: skip


class Stage(msgspec.Struct, frozen=True):
    """One stage, alone: CPU seconds per GB of plaintext, and plaintext MB/s."""

    cpu_s_per_gb: float
    mb_per_s: float


class Roofline(msgspec.Struct, frozen=True):
    """All stages; and the sums, in CPU seconds per GB of plaintext."""

    stages: dict[str, Stage]
    upload_cpu_s_per_gb: float
    download_cpu_s_per_gb: float
    upload_without_curve: float
    download_without_curve: float

    def ceiling_mb_s(self, cpu_s_per_gb: float) -> float:
        """MB/s when all cores of this machine do nothing but these stages."""
        return len(os.sched_getaffinity(0)) * 1000 / cpu_s_per_gb


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The data of every stage, made beforehand so that a stage times its own work alone."""

    plain: list[bytes]
    packed: list[bytes]  # what is encrypted: zstd frames of the text, the rest as it is
    sealed: list[bytes]
    shards: list[list[Buffer]]

    @property
    def plain_bytes(self) -> int:
        return sum(map(len, self.plain))


def run(options: Options) -> Outcome:
    """The command `python -m bench roofline`."""
    repeats = options.repeats()
    found = [measure_stages(options.folder, options.size(_STAGE_BYTES)) for _ in range(repeats)]
    outcome = Outcome(roofline=msgspec.to_builtins(found[-1]))
    for name in found[0].stages:
        outcome.add(f"{name}_cpu", "CPU-s/GB", [one.stages[name].cpu_s_per_gb for one in found])
        outcome.add(f"{name}_speed", "MB/s", [one.stages[name].mb_per_s for one in found])
    outcome.add("upload_cpu", "CPU-s/GB", [one.upload_cpu_s_per_gb for one in found])
    outcome.add("download_cpu", "CPU-s/GB", [one.download_cpu_s_per_gb for one in found])
    outcome.add("upload_cpu_without_curve", "CPU-s/GB", [one.upload_without_curve for one in found])
    outcome.add("download_cpu_without_curve", "CPU-s/GB", [one.download_without_curve for one in found])
    outcome.add("fresh_write_cpu", "CPU-s/GB", [_measure_fresh_write(options.folder) for _ in range(repeats)])
    return outcome


def measure_stages(folder: Path, size_bytes: int = _STAGE_BYTES) -> Roofline:
    """Run every stage twice and keep the cheaper run, for this is a floor; files are written below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    prepared = _prepare(max(2, size_bytes // BLOCK_BYTES))
    rounds = [
        {name: _time(work, prepared.plain_bytes) for name, work in _stages(prepared, folder).items()} for _ in range(2)
    ]
    stages = {name: min((one[name] for one in rounds), key=lambda stage: stage.cpu_s_per_gb) for name in rounds[0]}
    # CURVE costs what its transfer takes beyond a plain one of the same bytes.
    for kind in ("shards", "sealed"):
        plain, secured = stages[f"zmq_{kind}"], stages[f"curve_{kind}"]
        extra = max(0.0, secured.cpu_s_per_gb - plain.cpu_s_per_gb)
        stages[f"curve_{kind}"] = Stage(rounded(extra), secured.mb_per_s)
    upload, download = _total(stages, UPLOAD), _total(stages, DOWNLOAD)
    return Roofline(
        stages=stages,
        upload_cpu_s_per_gb=rounded(upload),
        download_cpu_s_per_gb=rounded(download),
        upload_without_curve=rounded(upload - stages["curve_shards"].cpu_s_per_gb),
        download_without_curve=rounded(download - stages["curve_sealed"].cpu_s_per_gb),
    )


def _total(stages: dict[str, Stage], times: dict[str, int]) -> float:
    return sum(stages[name].cpu_s_per_gb * often for name, often in times.items())


def _prepare(blocks: int) -> _Prepared:
    plain = [corpus.make_block(0, index) for index in range(blocks)]
    compressor = zstandard.ZstdCompressor(level=1)
    packed = [compressor.compress(block) if index % 2 == 0 else block for index, block in enumerate(plain)]
    cipher = AESGCM(_KEY)
    sealed = [cipher.encrypt(_NONCE, block, None) for block in packed]
    return _Prepared(plain, packed, sealed, [encode(block, CODE) for block in sealed])


def _stages(prepared: _Prepared, folder: Path) -> dict[str, Callable[[], None]]:
    """Each stage as a function that does its work once for the whole data."""
    plain, packed, sealed, shards = prepared.plain, prepared.packed, prepared.sealed, prepared.shards
    compressor, decompressor = zstandard.ZstdCompressor(level=1), zstandard.ZstdDecompressor()
    copies = [bytes(bytearray(block)) for block in plain]
    return {
        "sha256": _each(plain, lambda block: hashlib.sha256(block).digest()),
        "zstd_pack": _each(list(enumerate(plain)), lambda one: _pack(compressor, one[1], one[0] % 2 == 0)),
        "zstd_unpack": _each(packed[::2], decompressor.decompress),
        "aes_seal": _each(packed, lambda block: AESGCM(_KEY).encrypt(_NONCE, block, None)),
        "aes_open": _each(sealed, lambda block: AESGCM(_KEY).decrypt(_NONCE, block, None)),
        "compare": _each(list(zip(plain, copies, strict=True)), lambda pair: pair[0] == pair[1]),
        "code_encode": _each(sealed, lambda block: encode(block, CODE)),
        "code_join": _each(
            list(zip(sealed, shards, strict=True)), lambda one: join(dict(enumerate(one[1][:4])), len(one[0]), CODE)
        ),
        "xxh3_sealed": _each(sealed, xxhash.xxh3_128_digest),
        "xxh3_shards": _each([shard for six in shards for shard in six], xxhash.xxh3_128_digest),
        "tls": partial(loopback.send_tls, plain),
        "zmq_shards": partial(loopback.send_zmq, [shard for six in shards for shard in six], curve=False),
        "curve_shards": partial(loopback.send_zmq, [shard for six in shards for shard in six], curve=True),
        "zmq_sealed": partial(loopback.send_zmq, [shard for six in shards for shard in six[:4]], curve=False),
        "curve_sealed": partial(loopback.send_zmq, [shard for six in shards for shard in six[:4]], curve=True),
        "disk_write": partial(_write_shards, folder, shards),
        "disk_read": partial(_read_shards, folder, shards),
        "file_write": partial(_write_file, folder / "roofline.file", plain),
        "file_read": partial(_read_file, folder / "roofline.file"),
    }


def _each(items: Sequence[_T], work: Callable[[_T], object]) -> Callable[[], None]:
    """`work` on each item. Results are let go at once: memory that is touched anew costs more than some stages."""

    def once() -> None:
        for item in items:
            work(item)

    return once


def _time(work: Callable[[], None], plain_bytes: int) -> Stage:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    return Stage(rounded(cpu_s * GB / plain_bytes), rounded(plain_bytes / 1e6 / wall_s))


def _pack(compressor: zstandard.ZstdCompressor, block: bytes, compresses: bool) -> None:
    """Three samples tell whether a block shrinks; only then is it compressed as a whole."""
    view = memoryview(block)
    for at in (0, len(block) // 2, max(0, len(block) - _SAMPLE_BYTES)):
        compressor.compress(view[at : at + _SAMPLE_BYTES])
    if compresses:
        compressor.compress(block)


def _write_shards(folder: Path, shards: Sequence[Sequence[Buffer]]) -> None:
    """One file for each of six nodes; all six are made durable for every block, as one block alone would need."""
    files = [
        os.open(folder / f"roofline.{n}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for n in range(CODE.shards)
    ]
    try:
        for six in shards:
            for descriptor, shard in zip(files, six, strict=True):
                os.write(descriptor, shard)
            for descriptor in files:
                os.fdatasync(descriptor)
    finally:
        for descriptor in files:
            os.close(descriptor)


def _read_shards(folder: Path, shards: Sequence[Sequence[Buffer]]) -> None:
    for n in range(CODE.shards):
        with (folder / f"roofline.{n}").open("rb", buffering=0) as source:
            if n < CODE.k:
                buffer = bytearray(BLOCK_BYTES)
                for six in shards:
                    source.readinto(memoryview(buffer)[: len(six[n])])
        (folder / f"roofline.{n}").unlink()


def _measure_fresh_write(folder: Path) -> float:
    """CPU-s/GB of writing a file into memory that nobody has used for a while; see README.md."""
    blocks = [corpus.make_block(0, 1)] * (_STAGE_BYTES // BLOCK_BYTES)
    time.sleep(_FREE_FOR_S)
    stage = _time(partial(_write_file, folder / "roofline.file", blocks), _STAGE_BYTES)
    (folder / "roofline.file").unlink()
    return stage.cpu_s_per_gb


def _write_file(path: Path, blocks: Sequence[bytes]) -> None:
    with path.open("wb", buffering=0) as out:
        for block in blocks:
            out.write(block)
        os.fdatasync(out.fileno())


def _read_file(path: Path) -> None:
    with path.open("rb", buffering=0) as source:
        buffer = bytearray(BLOCK_BYTES)
        while source.readinto(buffer):
            pass
    path.unlink()


def floor(folder: Path) -> tuple[Outcome, Roofline]:
    """The roofline just before another benchmark, and an outcome that tells it."""
    found = measure_stages(folder)
    return Outcome(roofline=msgspec.to_builtins(found)), found

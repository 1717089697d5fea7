from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol import gf256
from node.protocol.erasure import (
    Code,
    TooFewShards,
    backend,
    encode,
    encode_parity,
    join,
    parity_matrix,
    rebuild_shards,
    recover_with_reedsolo,
    shard_size,
)
from node.protocol.gf256 import IsalKernel, Kernel, NumpyKernel, best_kernel, invert, multiply, times
from node.protocol.messages import Buffer

ALL_CODES = [Code(k, m) for k in range(1, 15) for m in range(7)]


@pytest.fixture(scope="module")
def numpy_kernel() -> NumpyKernel:
    return NumpyKernel()


def make_block(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def as_bytes(shards: Iterable[Buffer]) -> list[bytes]:
    return [bytes(shard) for shard in shards]


def test_isal_is_in_use_where_the_wheel_is_installed() -> None:
    pytest.importorskip("pyeclib")
    assert backend() == "isa-l"
    assert isinstance(best_kernel(), IsalKernel)


@pytest.mark.parametrize("code", [Code(2, 1), Code(4, 2), Code(6, 3), Code(10, 4)], ids=str)
def test_every_combination_of_m_losses_is_rebuilt(code: Code) -> None:
    sealed = make_block(code.k * 33 - 5)
    shards = as_bytes(encode(sealed, code))
    for lost in itertools.combinations(range(code.shards), code.m):
        present = {position: shard for position, shard in enumerate(shards) if position not in lost}
        assert rebuild_shards(present, lost, code) == {position: shards[position] for position in lost}
        assert bytes(join(present, len(sealed), code)) == sealed


@pytest.mark.parametrize("code", [Code(2, 1), Code(4, 2)], ids=str)
def test_every_combination_of_m_losses_is_recovered_by_reedsolo_alone(code: Code) -> None:
    shards = as_bytes(encode(make_block(code.k * 3), code))
    for lost in itertools.combinations(range(code.shards), code.m):
        present = {position: shard for position, shard in enumerate(shards) if position not in lost}
        assert recover_with_reedsolo(present, code) == shards


@pytest.mark.parametrize("code", ALL_CODES, ids=str)
def test_three_implementations_agree_for_every_code(code: Code, numpy_kernel: NumpyKernel) -> None:
    rng = random.Random(code.k * 100 + code.m)
    sealed = rng.randbytes(code.k * 5 + rng.randrange(code.k))
    shards = as_bytes(encode(sealed, code))
    assert as_bytes(encode(sealed, code, kernel=numpy_kernel)) == shards
    for _ in range(3):
        kept = rng.sample(range(code.shards), code.k)
        present = {position: shards[position] for position in kept}
        missing = [position for position in range(code.shards) if position not in kept]
        expected = {position: shards[position] for position in missing}
        assert rebuild_shards(present, missing, code) == expected
        assert rebuild_shards(present, missing, code, kernel=numpy_kernel) == expected
        assert bytes(join(present, len(sealed), code)) == sealed
        assert bytes(join(present, len(sealed), code, kernel=numpy_kernel)) == sealed
    if code.m:
        assert recover_with_reedsolo(present, code)[: code.k] == shards[: code.k]


@pytest.mark.parametrize("code", [Code(4, 2), Code(10, 4), Code(14, 6)], ids=str)
def test_a_column_of_shards_is_a_reedsolo_codeword(code: Code) -> None:
    reedsolo = pytest.importorskip("reedsolo")
    shards = as_bytes(encode(make_block(code.k * 4), code))
    for i in range(4):
        column = bytes(shard[i] for shard in shards)
        assert bytes(reedsolo.RSCodec(code.m).encode(column[: code.k])) == column


@given(
    data=st.binary(min_size=1, max_size=4000),
    k=st.integers(1, 14),
    m=st.integers(0, 6),
    choice=st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None)
def test_any_k_shards_give_the_block_back(data: bytes, k: int, m: int, choice: random.Random) -> None:
    code = Code(k, m)
    shards = encode(data, code)
    assert len(shards) == k + m
    assert {memoryview(shard).nbytes for shard in shards} == {shard_size(k, len(data))}
    present = {position: shards[position] for position in choice.sample(range(code.shards), k)}
    assert bytes(join(present, len(data), code)) == data


@pytest.mark.parametrize("size", [1, 15, 16, 31, 32, 33, 63, 64, 65, 127, 1000, 4097, 65535])
def test_shards_of_every_length_up_to_vector_edges_agree(size: int, numpy_kernel: NumpyKernel) -> None:
    code = Code(4, 2)
    data = make_block(4 * size)
    assert encode_parity(data, code) == encode_parity(data, code, kernel=numpy_kernel)


def test_data_shards_are_views_of_the_block_and_the_last_is_filled_with_zeros() -> None:
    sealed = make_block(10)
    shards = encode(sealed, Code(4, 2))
    assert as_bytes(shards[:4]) == [sealed[0:3], sealed[3:6], sealed[6:9], sealed[9:] + b"\0\0"]
    assert all(isinstance(shard, memoryview) and shard.obj is sealed for shard in shards[:3])


def test_parity_in_place_equals_encode() -> None:
    sealed = make_block(4 * 100)
    assert as_bytes(encode(sealed, Code(4, 2)))[4:] == encode_parity(bytearray(sealed), Code(4, 2))


def test_copies_are_the_block_itself() -> None:
    sealed = make_block(77)
    assert as_bytes(encode(sealed, Code(1, 2))) == [sealed] * 3
    assert rebuild_shards({2: sealed}, [0, 1], Code(1, 2)) == {0: sealed, 1: sealed}


def test_too_few_shards_are_refused() -> None:
    shards = encode(make_block(40), Code(4, 2))
    present = {0: shards[0], 2: shards[2], 5: shards[5]}
    for attempt in (
        lambda: rebuild_shards(present, [1], Code(4, 2)),
        lambda: join(present, 40, Code(4, 2)),
        lambda: recover_with_reedsolo(present, Code(4, 2)),
    ):
        with pytest.raises(TooFewShards):
            attempt()


def test_shards_of_unequal_length_and_foreign_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        rebuild_shards({0: b"ab", 1: b"a"}, [2], Code(2, 1))
    with pytest.raises(ValueError, match="positions"):
        rebuild_shards({0: b"a", 7: b"a"}, [2], Code(2, 1))
    with pytest.raises(ValueError, match="not of a sealed block"):
        join({0: b"ab", 1: b"ab"}, 9, Code(2, 1))
    with pytest.raises(ValueError, match="never empty"):
        encode(b"", Code(2, 1))


@pytest.mark.parametrize(("k", "m"), [(0, 1), (15, 1), (1, 7), (4, -1)])
def test_codes_out_of_range_do_not_exist(k: int, m: int) -> None:
    with pytest.raises(ValueError, match="no code"):
        Code(k, m)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_field_arithmetic_distributes(a: int, b: int, c: int) -> None:
    assert multiply(a, b ^ c) == multiply(a, b) ^ multiply(a, c)
    assert multiply(a, b) == multiply(b, a)


def test_an_inverse_times_the_matrix_is_the_identity() -> None:
    matrix = tuple(parity_matrix(Code(6, 6)))
    identity = [bytes(int(r == c) for c in range(6)) for r in range(6)]
    assert [times(row, invert(matrix)) for row in matrix] == identity
    with pytest.raises(ZeroDivisionError):
        invert([b"\1\1", b"\1\1"])


def test_numpy_takes_over_where_isal_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = make_block(400)
    expected = as_bytes(encode(sealed, Code(4, 2)))
    monkeypatch.setattr(gf256, "_load_isal", lambda: None)
    best_kernel.cache_clear()
    try:
        assert backend() == "numpy"
        assert as_bytes(encode(sealed, Code(4, 2))) == expected
    finally:
        best_kernel.cache_clear()


def test_the_bulk_releases_the_interpreter_lock() -> None:
    """While one thread encodes 64 MiB, another keeps ticking."""
    kernel: Kernel = best_kernel()
    if kernel.name != "isa-l":
        pytest.skip("numpy is too slow for this much data")
    data = bytes(64 << 20)
    encode_parity(data[: 4 << 20], Code(4, 2))
    stop, gaps = threading.Event(), []

    def tick() -> None:
        last = time.perf_counter()
        while not stop.is_set():
            time.sleep(0.0005)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    ticker = threading.Thread(target=tick)
    ticker.start()
    started = time.perf_counter()
    for _ in range(8):
        encode_parity(data, Code(4, 2))
    took = time.perf_counter() - started
    stop.set()
    ticker.join()
    assert len(gaps) > 3
    assert max(gaps) < took / 2

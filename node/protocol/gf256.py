"""Multiplying shards by a matrix over GF(2^8): the one heavy step of the erasure code, with two kernels.

`IsalKernel` calls Intel's ISA-L (the system's library or the copy in the pyeclib wheel); `NumpyKernel` looks products
up in a table and is some hundred times slower, but always there. Both give the same bytes and release the interpreter
lock while they work. The field is that of reedsolo and ISA-L: polynomial 0x11d, generator 2.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Final, Protocol

from node.protocol.messages import Buffer

Matrix = tuple[bytes, ...]  # rows of coefficients

TABLES_CACHED_MAX: Final = 4096


class Kernel(Protocol):
    """Something that multiplies."""

    name: str

    def multiply(self, matrix: Matrix, inputs: Sequence[int], outputs: Sequence[int], size: int) -> None:
        """outputs[r][i] = sum over c of matrix[r][c] * inputs[c][i], for `size` bytes at each of the addresses.

        The caller keeps the memory behind the addresses alive and outputs apart from inputs.
        """


class IsalKernel:
    """ISA-L through ctypes, which lets go of the interpreter lock during the call."""

    name = "isa-l"

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._tables = lru_cache(maxsize=TABLES_CACHED_MAX)(self._make_tables)

    def multiply(self, matrix: Matrix, inputs: Sequence[int], outputs: Sequence[int], size: int) -> None:
        columns, rows = len(inputs), len(outputs)
        self._library.ec_encode_data(
            ctypes.c_int(size),
            ctypes.c_int(columns),
            ctypes.c_int(rows),
            self._tables(matrix),
            (ctypes.c_void_p * columns)(*inputs),
            (ctypes.c_void_p * rows)(*outputs),
        )

    def _make_tables(self, matrix: Matrix) -> ctypes.Array[ctypes.c_char]:
        rows, columns = len(matrix), len(matrix[0])
        tables = ctypes.create_string_buffer(32 * rows * columns)
        self._library.ec_init_tables(ctypes.c_int(columns), ctypes.c_int(rows), b"".join(matrix), tables)
        return tables


class NumpyKernel:
    """A 64 KiB product table and numpy's take()."""

    name = "numpy"

    def __init__(self) -> None:
        import numpy  # noqa: PLC0415 - 20 MB that a process with ISA-L never needs

        self._numpy: ModuleType = numpy
        self._products = numpy.array([[multiply(a, b) for b in range(256)] for a in range(256)], dtype=numpy.uint8)

    def multiply(self, matrix: Matrix, inputs: Sequence[int], outputs: Sequence[int], size: int) -> None:
        numpy = self._numpy
        sources = [numpy.frombuffer((ctypes.c_uint8 * size).from_address(address), numpy.uint8) for address in inputs]
        for row, address in zip(matrix, outputs, strict=True):
            total = numpy.frombuffer((ctypes.c_uint8 * size).from_address(address), numpy.uint8)
            total[:] = 0
            for coefficient, source in zip(row, sources, strict=True):
                if coefficient:
                    numpy.bitwise_xor(total, self._products[coefficient].take(source), out=total)


@lru_cache(maxsize=1)
def best_kernel() -> Kernel:
    """ISA-L where it can be loaded, else numpy. Found at the first call and kept."""
    library = _load_isal()
    return IsalKernel(library) if library is not None else NumpyKernel()


def _load_isal() -> ctypes.CDLL | None:
    candidates = ["libisal.so.2"]
    if (wheel := importlib.util.find_spec("pyeclib")) is not None and wheel.origin is not None:
        beside = Path(wheel.origin).parent.parent / "pyeclib.libs"
        candidates += sorted(str(path) for path in beside.glob("libisal*.so*"))
    for candidate in candidates:
        try:
            library = ctypes.CDLL(candidate)
        except OSError:
            continue  # not installed, or built for another machine; the next one may do
        library.ec_init_tables.restype = None
        library.ec_encode_data.restype = None
        return library
    return None


def invert(matrix: Sequence[bytes]) -> Matrix:
    """The inverse of a square matrix. Raises ZeroDivisionError when there is none."""
    size = len(matrix)
    work = [bytearray(row) + bytearray(int(r == c) for c in range(size)) for r, row in enumerate(matrix)]
    for column in range(size):
        pivot = next((r for r in range(column, size) if work[r][column]), None)
        if pivot is None:
            raise ZeroDivisionError("a singular matrix")
        work[column], work[pivot] = work[pivot], work[column]
        scale = _inverse(work[column][column])
        work[column] = bytearray(multiply(scale, value) for value in work[column])
        for r in range(size):
            if r != column and (factor := work[r][column]):
                work[r] = bytearray(a ^ multiply(factor, b) for a, b in zip(work[r], work[column], strict=True))
    return tuple(bytes(row[size:]) for row in work)


def times(row: bytes, matrix: Matrix) -> bytes:
    """A row vector times a matrix."""
    total = bytearray(len(matrix[0]))
    for factor, line in zip(row, matrix, strict=True):
        if factor:
            for c, value in enumerate(line):
                total[c] ^= multiply(factor, value)
    return bytes(total)


def multiply(a: int, b: int) -> int:
    """The product of two field elements."""
    if not a or not b:
        return 0
    return _EXP[_LOG[a] + _LOG[b]]


def _inverse(a: int) -> int:
    return _EXP[255 - _LOG[a]]


def _make_logarithms() -> tuple[bytes, bytes]:
    exp, log = bytearray(510), bytearray(256)
    value = 1
    for power in range(255):
        exp[power] = exp[power + 255] = value
        log[value] = power
        value <<= 1
        if value & 0x100:
            value ^= 0x11D
    return bytes(exp), bytes(log)


_EXP, _LOG = _make_logarithms()


# --- addresses of buffers, read-only ones too, which ctypes' from_buffer() refuses


class _PyBuffer(ctypes.Structure):
    """CPython's Py_buffer; `obj` is a plain pointer here, its reference is PyBuffer_Release's to drop."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
_get_buffer.restype = ctypes.c_int
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.c_void_p,)
_release_buffer.restype = None


@contextmanager
def addresses(buffers: Sequence[Buffer]) -> Iterator[list[int]]:
    """The addresses of contiguous buffers, pinned until the block ends. Raises BufferError for others."""
    views: list[_PyBuffer] = []
    try:
        for buffer in buffers:
            view = _PyBuffer()
            _get_buffer(buffer, ctypes.byref(view), 0)
            views.append(view)
        yield [view.buf or 0 for view in views]
    finally:
        for view in views:
            _release_buffer(ctypes.byref(view))

"""The header of a GGUF file: its metadata and the shapes of its tensors, read without a weight.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. Every length is
compared with what is left of the file before anything of that length is read.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llama_padfix.core.errors import PadfixError

_STRING, _ARRAY = 8, 9
# By type in the file: uint8, int8, uint16, int16, uint32, int32, float32, bool, uint64, int64, float64.
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_MOST_ENTRIES = 100_000  # of metadata, and of tensors
_LARGEST_RANK = 8


@dataclass(frozen=True)
class GgufHeader:
    """What the header of a GGUF file says."""

    metadata: Mapping[str, object]
    """Values by key; an array is a list."""

    shapes: Mapping[str, tuple[int, ...]]
    """The shapes of tensors by name, the fastest dimension first."""


def read_gguf_header(path: Path) -> GgufHeader:
    """Return the metadata and the shapes of a GGUF file; no weight is read.

    Raises:
        PadfixError: The file cannot be read, is no GGUF file of a known version, or ends within its header.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).read()
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        if isinstance(error, PadfixError):
            raise
        raise PadfixError(f"{str(path)!r} cannot be read ({error}). Copy or download it again.") from error


class _Reader:
    """Reads a header from its first byte to its last."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.place, self.order = path, data, 0, "<"

    def read(self) -> GgufHeader:
        """Return the header."""
        if self.data[:4] != b"GGUF":
            raise PadfixError(f"{str(self.path)!r} is no GGUF file: it begins with {self.data[:4]!r}.")
        self.place = 4
        version = self._number("I")
        if version > 0xFFFF:  # the number of a small version, in the other byte order
            self.place, self.order = 4, ">"
            version = self._number("I")
        if version not in (2, 3):
            raise PadfixError(f"{str(self.path)!r} is GGUF of version {version}; 2 and 3 are read. Convert it again.")
        tensors, entries = self._count(), self._count()
        metadata = {}
        for _ in range(entries):
            key = self._text()
            metadata[key] = self._value(self._number("I"))
        shapes = {}
        for _ in range(tensors):
            name = self._text()
            rank = self._number("I")
            if rank > _LARGEST_RANK:
                raise self._damaged(f"a tensor of {rank} dimensions")
            shapes[name] = tuple(int(self._number("Q")) for _ in range(int(rank)))
            self._take(12)  # its type and its place
        return GgufHeader(metadata, shapes)

    def _count(self) -> int:
        count = int(self._number("Q"))
        if count > _MOST_ENTRIES:
            raise self._damaged(f"{count} entries")
        return count

    def _take(self, size: int) -> int:
        """Return where the next bytes begin, and step over them."""
        start = self.place
        if size > len(self.data) - start:
            raise self._damaged(f"{size} bytes where {len(self.data) - start} are left")
        self.place = start + size
        return start

    def _number(self, code: str) -> int | float:
        start = self._take(struct.calcsize(f"={code}"))
        number: int | float = struct.unpack_from(self.order + code, self.data, start)[0]
        return number

    def _text(self) -> str:
        size = int(self._number("Q"))
        start = self._take(size)
        return self.data[start : start + size].decode("utf-8", errors="replace")

    def _value(self, kind: int | float, depth: int = 0) -> object:
        if kind == _STRING:
            return self._text()
        if kind in _SCALARS:
            return self._number(_SCALARS[int(kind)])
        if kind != _ARRAY or depth > 1:
            raise self._damaged(f"a value of type {kind}")
        item, count = self._number("I"), int(self._number("Q"))
        if item in _SCALARS:
            code = _SCALARS[int(item)]
            start = self._take(count * struct.calcsize(f"={code}"))
            return list(struct.unpack_from(f"{self.order}{count}{code}", self.data, start))
        if count > (len(self.data) - self.place) // 8:  # each item begins with a length of 8 bytes
            raise self._damaged(f"{count} items")
        return [self._value(item, depth + 1) for _ in range(count)]

    def _damaged(self, seen: str) -> PadfixError:
        return PadfixError(
            f"{str(self.path)!r} is damaged or cut short: at byte {self.place} its header claims {seen}. "
            "Copy or download it again."
        )

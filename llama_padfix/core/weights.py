"""Files of weights as they lie in a folder: their names, and what is wrong with them, by their heads alone."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llama_padfix.core.text import parse_json

_LARGEST_HEADER = 100_000_000  # the limit of the safetensors format
_POINTER = b"version https://git-lfs"
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the magic number of files before torch 1.6
_SINGLE = ("model.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "adapter_model.bin")
# Bits of a number, by the names of types in the safetensors format.
_BITS = (
    dict.fromkeys(("F64", "C64", "I64", "U64"), 64)
    | dict.fromkeys(("F32", "I32", "U32"), 32)
    | dict.fromkeys(("F16", "BF16", "I16", "U16"), 16)
    | dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
    | {"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}
)
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def name_weights(folder: Path) -> list[Path]:
    """Return the files of weights that a folder has, or that its index names; an index that is none names none."""
    named = next((names for _, names in _read_indexes(folder) if not isinstance(names, Exception)), [])
    return [*named, *_list_single(folder)]


def find_broken_weights(folder: Path, *, may_lack_all: bool = False) -> Iterator[str]:
    """Yield what is wrong with the files of weights in a folder, each with what helps; no tensor is read.

    Of a safetensors file the header is compared with the size. A file of torch must have its end.

    Args:
        folder: a folder with a model or an adapter.
        may_lack_all: with no file of an index there, such as in a folder of settings alone, none is missing.
    """
    index_name, named = "", list[Path]()
    for index, names in _read_indexes(folder):
        if isinstance(names, Exception):
            yield _broken(index, f"is no index of weights ({type(names).__name__}: {names})")
        elif not index_name:
            index_name, named = index.name, names
    missing = [path for path in named if not path.is_file()]
    if len(missing) < len(named) or not may_lack_all:
        for path in missing:
            yield _broken(path, f"is missing, one of {len(named)} files that {index_name} names")
    for path in (*named, *_list_single(folder)):
        if path not in missing:
            try:
                yield from _find_fault(path)
            except OSError as error:
                yield _broken(path, f"cannot be read ({error})")


def _list_single(folder: Path) -> list[Path]:
    return [folder / name for name in _SINGLE if (folder / name).is_file()]


def _read_indexes(folder: Path) -> Iterator[tuple[Path, list[Path] | Exception]]:
    """Yield each index of a folder with the files that it names, or with what reading it raised."""
    for index in (folder / name for name in _INDEXES if (folder / name).is_file()):
        try:
            yield index, [folder / name for name in _names_in(index)]
        except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
            yield index, error


def _names_in(index: Path) -> list[str]:
    names = set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values())
    if not names:
        raise ValueError("its weight_map names no file")
    for name in names:
        if not isinstance(name, str) or name != Path(name).name:
            raise ValueError(f"{name!r} is no name of a file")
    return sorted(names)


def _find_fault(path: Path) -> Iterator[str]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_POINTER))
        if start == _POINTER:
            yield f"{str(path)!r} is a pointer of Git LFS, and not the weights. Fetch them there: git lfs pull"
        elif path.suffix == ".safetensors":
            file.seek(8)
            yield from _compare_header(path, size, start, file.read(_length(start, size)))
        elif not size or (start.startswith(b"PK") and not zipfile.is_zipfile(file)):
            yield _broken(path, f"has {size} bytes, and no end: it is cut short")
        elif not start.startswith((b"PK", _OLD_TORCH)):
            yield _broken(path, "is no file of torch: it begins otherwise")


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Return the shapes of the tensors in a safetensors file, by its header; none where it has no readable one."""
    return {name: shape for name, (_, shape) in read_tensors(path).items()}


def read_tensors(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Return the type ("F32") and the shape of each tensor in a safetensors file, as `read_shapes` does."""
    try:
        with path.open("rb") as file:
            header = parse_json(file.read(_length(file.read(8), path.stat().st_size)))
        return {
            name: (str(entry["dtype"]), list(entry["shape"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return {}


def _length(start: bytes, size: int) -> int:
    """Return the length of a header; 0 where it cannot be so long."""
    length: int = struct.unpack("<Q", start[:8])[0] if size >= 8 else 0
    return length if length <= min(size - 8, _LARGEST_HEADER) else 0


def _compare_header(path: Path, size: int, start: bytes, text: bytes) -> Iterator[str]:
    """Compare the header of a safetensors file with its size: 8 bytes of length, JSON, then the tensors' bytes."""
    if size < 8:
        yield _broken(path, f"has {size} bytes, and no header")
        return
    (length,) = struct.unpack("<Q", start[:8])
    if length != len(text):
        claim = f"has {size} bytes, and a header that claims {length}: it is cut short or no safetensors"
        yield _broken(path, claim)
        return
    try:
        header = parse_json(text)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
        wrong = next((name for name, entry in header.items() if name != "__metadata__" and not _fits(entry)), None)
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        yield _broken(path, f"has a header that is no list of tensors ({type(error).__name__})")
        return
    if expected != size:
        yield _broken(path, f"has {size} bytes, and its header describes {expected}: it is cut short or damaged")
    elif wrong is not None:
        entry = header[wrong]
        seen = f"says that {wrong!r} is {entry['dtype']} of shape {entry['shape']}, and has other bytes for it"
        yield _broken(path, f"{seen} ({entry['data_offsets'][1] - entry['data_offsets'][0]})")


def _fits(entry: Mapping[str, Any]) -> bool:  # as JSON has it
    """Return whether the bytes of a tensor are as many as its type and its shape say."""
    start, end = entry["data_offsets"]
    bits: int = math.prod(entry["shape"]) * _BITS.get(entry["dtype"], 0)
    return entry["dtype"] in _BITS and bits == 8 * (end - start)


def _broken(path: Path, seen: str) -> str:
    return f"{str(path)!r} {seen}. Copy or download it again, or save it: model.save_pretrained(folder)"

"""Where encoded rows are kept: a file named after all that decides its content, written by one process at a time."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.dataset.reader import CHUNK_ROWS
from llama_padfix.encoding.dataset.row_sequence import RowSequence

if TYPE_CHECKING:
    import datasets

    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.encoding.encoder import ChatEncoder

logger = logging.getLogger(__name__)

_FORMAT = 3  # of the files; another one is not read


def find_cache_file(
    encoder: ChatEncoder, dataset: datasets.Dataset | Sequence[object], cache_dir: str | os.PathLike[str] | None
) -> Path | None:
    """Return the cache file for a dataset's rows as this encoder encodes them; None where they are not to be cached.

    It lies in `cache_dir`, else beside the dataset's own files, as those of `datasets.map` do. Without either, with
    `datasets.disable_caching()`, and where a setting or the rows cannot be hashed, nothing is cached.
    """
    import datasets

    if cache_dir is not None:
        folder = Path(cache_dir).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PadfixError(
                f"cache_dir={str(folder)!r} cannot be made: {error}. Pass a folder of your own."
            ) from error
    else:
        files = [] if isinstance(dataset, Sequence) else dataset.cache_files
        if not files or not datasets.is_caching_enabled():
            return None
        folder = Path(files[0]["filename"]).parent
    if not os.access(folder, os.W_OK):
        if cache_dir is not None:
            raise PadfixError(f"Nothing can be written to cache_dir={str(folder)!r}. Pass a folder of your own.")
        logger.warning(
            "llama_padfix: nothing can be written to %s, so the encoded rows are not cached. Pass cache_dir=", folder
        )
        return None
    try:
        return folder.resolve() / f"cache-{_hash_all(encoder, dataset)}.arrow"
    except _HashError as error:
        logger.warning("llama_padfix: the encoded rows are not cached: %s", error)
        return None


def name_temporary_file() -> Path:
    """Return a new name in the folder that `datasets` deletes when the process ends."""
    from datasets.fingerprint import generate_random_fingerprint, get_temporary_cache_files_directory

    return Path(get_temporary_cache_files_directory()) / f"cache-{generate_random_fingerprint()}.arrow"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time write a file; the others wait, and then find it written."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        logger.info("llama_padfix: another process encodes these rows; waiting for it (%s.lock)", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def set_aside(path: Path) -> None:
    """Give a damaged file another name, and log which; without such a file, do nothing."""
    aside = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(aside)
    except FileNotFoundError:  # not written yet, or set aside by another process
        return
    logger.warning(
        "llama_padfix: %s was damaged after it was written: its checksums differ. It is now %s, and the rows are "
        "encoded again. Check the disk, then delete that file.",
        path,
        aside,
    )


class _HashError(Exception):
    """Something that decides the ids and has no hash."""


def _hash_all(encoder: ChatEncoder, dataset: datasets.Dataset | Sequence[object]) -> str:
    """Return a hash of the rows, the settings, the tokenizer, its template, and the versions that render them."""
    import tokenizers
    import transformers

    record = encoder.encoding.to_json()
    settings = {"train_on": encoder.train_on, **encoder.template_kwargs}
    unrecorded = [_hash(name, settings[name.rpartition(".")[2]]) for name in json.loads(record)["unrecorded"]]
    described, versions = _describe_tokenizer(encoder.tokenizer), [tokenizers.__version__, transformers.__version__]
    if isinstance(dataset, Sequence):
        rows, columns = _hash_rows(dataset), None
    else:
        rows, columns = dataset._fingerprint, dataset.format["columns"]
    parts = [_FORMAT, CHUNK_ROWS, record, unrecorded, described, versions, rows, columns]
    parts += filter(None, [getattr(encoder, "without_mask", "")])  # for which rows of several turns are refused
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _describe_tokenizer(tokenizer: TokenizerLike) -> list[object]:
    """Return what may have changed in a tokenizer since its vocabulary was hashed, or adds tokens around a text."""
    added = sorted((token_id, repr(token)) for token_id, token in tokenizer.added_tokens_decoder.items())
    known: list[object] = [type(tokenizer).__name__, len(tokenizer), added, str(tokenizer.special_tokens_map)]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    for name in ("normalizer", "pre_tokenizer", "post_processor"):
        part = getattr(backend, name, None)
        known.append(part.__getstate__().decode() if part is not None else None)
    return known


def _hash_rows(rows: Sequence[object]) -> str:
    """Return a hash of the content of rows, whichever objects hold it."""
    import xxhash

    checksum = xxhash.xxh3_128()
    for start in range(0, len(rows), CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, len(rows))
        chunk: Any = rows.read_range(start, stop) if isinstance(rows, RowSequence) else rows[start:stop]  # or a table
        chunk = chunk if isinstance(chunk, (list, tuple)) else chunk.to_pylist()
        try:
            checksum.update(json.dumps(chunk).encode())
        except RecursionError:
            for text in _flatten(chunk):
                checksum.update(text.encode("utf-8", "surrogatepass"))
        except (TypeError, ValueError):  # what JSON cannot hold
            checksum.update(_hash("rows", chunk).encode())
    return checksum.hexdigest()


def _flatten(rows: object) -> Iterator[str]:
    """Yield what is in rows that are nested too deeply for JSON; what came before, by its place."""
    stack, places = [rows], dict[int, int]()
    while stack:
        value = stack.pop()
        if not isinstance(value, (dict, list, tuple)):
            yield f"{type(value).__name__} {value!r},"
        elif id(value) in places:
            yield f"place {places[id(value)]},"
        else:
            places[id(value)] = len(places)
            yield f"{type(value).__name__} {len(value)},"
            stack += [part for item in value.items() for part in item] if isinstance(value, dict) else value


def _hash(name: str, value: object) -> str:
    from datasets.fingerprint import Hasher

    try:
        return str(Hasher.hash(value))
    except Exception as error:
        raise _HashError(f"{name} cannot be hashed ({type(error).__name__}: {error})") from error

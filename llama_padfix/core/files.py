"""Files and folders that are written whole or not at all: under another name beside the place, then renamed."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; a reader sees the old content or the new one, never a part.

    The target of a link is replaced, so that the link stays one. What exists and is no regular file (a pipe,
    `/dev/stdout`) is written into.

    Raises:
        OSError: The folder does not exist or cannot be written to, or the disk is full. The path is as before.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        target.write_bytes(data)
        return
    # Unique, since threads and processes may write the same file at the same time.
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        scratch.write_bytes(data)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new, empty folder in `parent` to fill and then to rename; it is removed if the block raises.

    Args:
        parent: An existing folder, on the same file system as the final place, so that the rename is atomic.
        prefix: The start of the folder's name; one with a dot in front is hidden while it is incomplete.
    """
    scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        scratch.chmod(0o755)  # `mkdtemp` gives access to the owner alone
        yield scratch
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise

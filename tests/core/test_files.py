"""Files and folders written whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from llama_padfix.core.files import scratch_folder, write_whole


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for data in (b"old", b"new"):
        write_whole(path, data)
    assert path.read_bytes() == b"new" and [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_rename_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def refuse(self: Path, target: object) -> Path:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="the disk is gone"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old" and [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_whole(tmp_path / "pipe", b"page")
    reader.join()
    assert read == [b"page"] and (tmp_path / "pipe").is_fifo()


def test_a_file_has_the_permissions_that_any_new_file_has(tmp_path: Path) -> None:
    write_whole(tmp_path / "ours", b"")
    (tmp_path / "any").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_scratch_folder_is_renamed_or_removed(tmp_path: Path) -> None:
    with scratch_folder(tmp_path, ".part-") as scratch:
        (scratch / "file").touch()
        scratch.rename(tmp_path / "whole")
    assert [item.name for item in tmp_path.iterdir()] == ["whole"]
    assert (tmp_path / "whole").stat().st_mode & 0o777 == 0o755
    with pytest.raises(KeyboardInterrupt), scratch_folder(tmp_path, ".part-") as scratch:
        (scratch / "file").touch()
        raise KeyboardInterrupt
    assert [item.name for item in tmp_path.iterdir()] == ["whole"]

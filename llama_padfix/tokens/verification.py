"""The verification of a fast engine against `tokenizers`: the texts to compare, and the verdicts that are kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.core.files import write_whole
from llama_padfix.core.version import installed_versions, library_info
from llama_padfix.tokens.probe_texts import hash_probe_texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama_padfix.core.types import IdArray, LongArray

    FlatIds = tuple[IdArray, LongArray]  # of texts: all ids one after another, and the number of ids of each text
    Encode = Callable[[Sequence[str]], FlatIds]

_REASON = 300  # characters of a verdict
_SHOWN = 80  # characters of a text in a warning
_KEPT = 500  # files of verdicts


@dataclass(frozen=True)
class EngineKey:
    """What a verdict is about: one tokenizer, the code and the packages that encode, and the probe."""

    tokenizer: str
    """The SHA-256 in hex of the JSON from which the fast engine is made."""
    split_special_tokens: bool
    fastokens: str
    """Its version; "" for the engine with a cache."""
    tokenizers: str
    probe: str
    code: str
    """The version of this library, and the SHA-256 in hex of its files that make engines."""
    arrays: str
    """The versions of the packages for arrays."""


def make_engine_key(source: str, split_special_tokens: bool, package: str = "fastokens") -> EngineKey:
    """Return the key of a verdict on the tokenizer that this JSON describes; `package` "" for the cache."""
    return EngineKey(
        tokenizer=hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest(),
        split_special_tokens=split_special_tokens,
        fastokens=version(package) if package else "",
        tokenizers=version("tokenizers"),
        probe=hash_probe_texts(),
        code=f"{library_info()['version']} {_hash_code(_CODE)}",
        arrays=json.dumps(installed_versions(("numpy", "pyarrow"))),
    )


_CODE = Path(__file__).parent


@cache
def _hash_code(folder: Path) -> str:
    """Return the SHA-256 in hex of the sources in a folder and in its folder `cached`."""
    whole = hashlib.sha256()
    for path in sorted([*folder.glob("*.py"), *folder.glob("cached/*.py")]):
        source = path.read_bytes()
        whole.update(f"{path.name} {len(source)} ".encode() + source)
    return whole.hexdigest()


# The verdicts of this process, which hold where the cache folder cannot be written. Engines share them, so that each
# tokenizer is probed once; an entry is valid in a forked process too.
_known: dict[EngineKey, str] = {}


def find_verdict(key: EngineKey) -> str | None:
    """Return why the fast engine is not used, "" where it gave the same ids, None without a verdict."""
    if key in _known:
        return _known[key]
    try:
        kept = json.loads(verdict_path(key).read_text(encoding="utf-8"))
        if EngineKey(**kept["subject"]) == key and isinstance(kept["difference"], str):
            return str(kept["difference"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        pass  # no verdict, or none that this version can read
    return None


def keep_verdict(key: EngineKey, difference: str) -> None:
    """Keep a verdict for this process, and for later ones where the cache folder can be written.

    The file is written whole or not at all. It holds none of the user's texts. The oldest files go once there are
    more than 500.

    Args:
        key: What the verdict is about.
        difference: The difference that was found, "" for none.
    """
    _known[key] = difference[:_REASON]
    record = json.dumps({"subject": asdict(key), "difference": difference[:_REASON]}, indent=1)
    with contextlib.suppress(OSError, RuntimeError):
        path = verdict_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, record.encode())
        _remove_oldest(path.parent)


def _remove_oldest(folder: Path) -> None:
    """Remove all but the newest files. Verdicts on other code and other releases are never read again."""
    times = {}
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may remove it
            times[path] = path.stat().st_mtime_ns
    for path in sorted(times, key=times.__getitem__)[:-_KEPT]:
        with contextlib.suppress(OSError):
            path.unlink()


def verdict_path(key: EngineKey) -> Path:
    """Return the file of a verdict, below `$XDG_CACHE_HOME` or `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    name = hashlib.sha256(json.dumps(asdict(key), sort_keys=True).encode()).hexdigest()[:32]
    return Path(root) / "llama_padfix" / "engines" / f"{name}.json"


def choose_places(first: int, count: int, period: int) -> list[int]:
    """Return which of `count` texts to compare, after `first` earlier ones.

    One text of each `period`, at another place in each, so that no regularity of the data can hide a difference.
    """
    places = []
    for block in range(first // period, (first + count - 1) // period + 1):
        place = block * period + block * 2654435761 % 4294967296 * period // 4294967296
        if first <= place < first + count:
            places.append(place - first)
    return places


def choose_sample(texts: Sequence[str], count: int, characters: int) -> list[str]:
    """Return up to `count` texts spread over all of them, up to `characters` characters together."""
    step = max(len(texts) // count, 1)
    sample: list[str] = []
    for text in texts[::step][:count]:
        if characters <= 0:
            break
        sample.append(text[:characters])
        characters -= len(text)
    return sample


def compare_places(found: FlatIds, exact: Encode, texts: Sequence[str], places: Sequence[int]) -> str:
    """Compare some texts, as they were encoded among all others."""
    if not places:
        return ""
    import numpy as np

    ids, lengths = found
    ends = lengths.cumsum()
    checked = [texts[place] for place in places]
    ours = [ids[ends[place] - lengths[place] : ends[place]] for place in places]
    return describe_difference(checked, (np.concatenate(ours), lengths[places]), exact(checked))


def describe_difference(texts: Sequence[str], ours: FlatIds, theirs: FlatIds) -> str:
    """Return a description of the first text to which two engines give different ids, "" where there is none."""
    import numpy as np

    (ids, lengths), (other_ids, other_lengths) = ours, theirs
    if np.array_equal(lengths, other_lengths) and np.array_equal(ids, other_ids):
        return ""
    if len(lengths) != len(texts):
        return f"it gave {len(lengths)} results for {len(texts)} texts"
    end = other_end = 0
    for text, length, other_length in zip(texts, lengths.tolist(), other_lengths.tolist(), strict=True):
        start, other_start, end, other_end = end, other_end, end + length, other_end + other_length
        mine, right = ids[start:end], other_ids[other_start:other_end]
        if not np.array_equal(mine, right):
            same = next((n for n, (one, two) in enumerate(zip(mine, right, strict=False)) if one != two), 0)
            shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} ... {text[-_SHOWN // 2 :]}"
            return (
                f"it gives other ids to the text {shown!r}, from token {same}: {mine[same : same + 5].tolist()} "
                f"instead of {right[same : same + 5].tolist()}"
            )
    return "it gives ids beyond the last text"


def split_flat(found: FlatIds) -> list[FlatIds]:
    """Return the ids of each text on its own."""
    import numpy as np

    ids, lengths = found
    return [(part, np.array([len(part)])) for part in np.split(ids, lengths.cumsum()[:-1])] if len(lengths) else []


def join_flat(parts: Sequence[FlatIds]) -> FlatIds:
    """Return the ids of several calls as if of one."""
    import numpy as np

    if len(parts) == 1:
        return parts[0]
    return np.concatenate([ids for ids, _ in parts]), np.concatenate([lengths for _, lengths in parts])

"""How a dataset was encoded, kept inside the dataset, so that a second run gives the same ids on another day."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.dates import find_date
from llama_padfix.core.errors import PadfixError
from llama_padfix.core.records import record_html, short_repr
from llama_padfix.core.version import library_info
from llama_padfix.encoding.settings import EncodeSettings

if TYPE_CHECKING:
    from typing import TypeAlias

    import datasets

    from llama_padfix.core.types import TokenizerLike

    Described: TypeAlias = datasets.Dataset | datasets.IterableDataset | Mapping[str, datasets.Dataset]
    """What has a description, or a dict of such."""

_MARK = "llama_padfix encoding: "


@dataclass(frozen=True, kw_only=True)
class Encoding(EncodeSettings):
    """The settings that decide the ids and labels of a dataset, and what they were applied to.

    `template_kwargs` hold the pinned date (for some templates as a `chat_template` with a fixed clock).
    """

    task: str = "sft"
    """What the rows are for: "sft", or a task of `PairEncoder`."""
    train_on: Any = "assistant"  # of a record, also a name, which `TrainOn` is not
    """See `EncodeSettings`; the name of a callable that cannot be written as JSON."""
    template_hash: str = ""
    """SHA-256 in hex of the chat template's source."""
    tokenizer_hash: str = ""
    """SHA-256 in hex of what decides the tokenizer's ids."""
    version: str = ""
    """Of this library."""
    unrecorded: tuple[str, ...] = ()
    """Settings that cannot be written as JSON, such as a callable `train_on`; `arguments` needs them again."""

    __repr__ = short_repr
    _repr_html_ = record_html

    def __post_init__(self) -> None:
        """Check nothing: a record may hold the name of a callable, and settings of a later version."""

    @property
    def date(self) -> str | None:
        """The date that the chat template prints; None where it prints none, or a constant one."""
        return find_date(self.template_kwargs)

    def arguments(self, **given: Any) -> dict[str, Any]:  # keywords of several types
        """Return the keywords with which `ChatEncoder` or `prepare` encodes the same again.

        Args:
            **given: Keywords that take the place of recorded ones; `template_kwargs` are added to the recorded ones.

        Raises:
            PadfixError: A setting that could not be recorded is not given.
        """
        known = {name: getattr(self, name) for name in _SETTINGS}
        if self.task != "sft":
            known["task"] = self.task
        known["template_kwargs"] = {**self.template_kwargs, **(given.pop("template_kwargs", None) or {})}
        missing = [
            name
            for name in self.unrecorded
            if name not in given and name.removeprefix("template_kwargs.") not in known["template_kwargs"]
        ]
        if missing:
            raise PadfixError(
                f"The record holds no {', '.join(missing)}, which cannot be written as JSON. Give it again: "
                f"encoding.arguments({missing[0].partition('.')[0]}=...)"
            )
        return known | given

    def find_differences(self, other: Encoding) -> tuple[str, ...]:
        """Return the names of the fields in which two encodings differ; the library's version is not compared."""
        mine, theirs = json.loads(self.to_json()), json.loads(other.to_json())
        return tuple(name for name in sorted({*mine, *theirs} - {"version"}) if mine.get(name) != theirs.get(name))

    def to_json(self) -> str:
        """Return the record as one line of JSON; `Encoding.from_json` reads it."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        kwargs, unrecorded = dict(self.template_kwargs), set(self.unrecorded)
        for name in [name for name, value in kwargs.items() if not _is_json(value)]:
            del kwargs[name]
            unrecorded.add(f"template_kwargs.{name}")
        if not _is_json(self.train_on):
            values["train_on"] = getattr(self.train_on, "__qualname__", type(self.train_on).__qualname__)
            unrecorded.add("train_on")
        if self.task == "sft":
            del values["task"]  # which earlier versions do not know
        values.update(template_kwargs=kwargs, unrecorded=sorted(unrecorded))
        return json.dumps(values, ensure_ascii=True, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Encoding:
        """Read what `to_json` wrote. Raises `PadfixError` for anything else."""
        try:
            values = json.loads(text)
            values["allowed_tokens"] = tuple(values["allowed_tokens"])
            values["unrecorded"] = tuple(values["unrecorded"])
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PadfixError(
                f"This is no record of an encoding that this version reads ({type(error).__name__}: {error}). "
                "Encode the rows again, or update: pip install -U llama-padfix"
            ) from error


_SETTINGS = tuple(item.name for item in fields(EncodeSettings))


def describe_encoding(settings: EncodeSettings, template_hash: str, tokenizer_hash: str) -> Encoding:
    """Return the record of an encoder's settings."""
    kept = {name: getattr(settings, name) for name in _SETTINGS}
    if isinstance(kept["train_on"], Mapping):
        kept["train_on"] = {name: list(roles) for name, roles in kept["train_on"].items()}
    kept["template_kwargs"] = dict(kept["template_kwargs"])
    version = library_info()["version"]
    return Encoding(**kept, template_hash=template_hash, tokenizer_hash=tokenizer_hash, version=version)


def write_encoding(dataset: Described, encoding: Encoding) -> None:
    """Write a record into the description of a dataset, in place.

    It is kept by `save_to_disk`, `map`, `filter`, `select`, `shuffle`, `train_test_split` and
    `concatenate_datasets`. Parquet files and the Hub keep no description: write `encoding.to_json()` beside them.

    Args:
        dataset: A `Dataset`, `IterableDataset` or a dict of them.
        encoding: The record, as `ChatEncoder.encoding` gives it.

    Raises:
        PadfixError: `dataset` has no description.
    """
    if not isinstance(encoding, Encoding):
        raise PadfixError(
            f"Got a {type(encoding).__name__} where a record is needed. Pass that of the encoder: encoder.encoding"
        )
    for part in _parts_of(dataset):
        kept = [line for line in (part.info.description or "").splitlines() if not line.startswith(_MARK)]
        part.info.description = "\n".join([*kept, _MARK + encoding.to_json()])


def read_encoding(dataset: Described) -> Encoding:
    """Return how a dataset was encoded.

    Args:
        dataset: A `Dataset`, `IterableDataset` or a dict of them.

    Raises:
        PadfixError: No record is found, or parts of the rows were encoded with different settings.
    """
    lines = [line for part in _parts_of(dataset) for line in (part.info.description or "").splitlines()]
    found = [Encoding.from_json(line.removeprefix(_MARK)) for line in lines if line.startswith(_MARK)]
    if not found:
        raise PadfixError(
            "The dataset holds no record of how it was encoded (Parquet files and the Hub keep none). "
            "Encode it with encode_dataset or prepare(...).encode, or keep encoding.to_json() beside it."
        )
    names = {name for other in found[1:] for name in found[0].find_differences(other)}
    if names:
        raise PadfixError(
            f"The dataset was put together from rows that were encoded in several ways: {', '.join(sorted(names))} "
            "differ. Encode the parts alike: encode_dataset(ChatEncoder(tokenizer, **read_encoding(part).arguments()))"
        )
    return found[0]


def hash_template(tokenizer: TokenizerLike) -> str:
    """Return the SHA-256 of the tokenizer's chat template, or templates; "" where it has none."""
    template = getattr(tokenizer, "chat_template", None)
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() if template else ""


def hash_tokenizer(tokenizer: TokenizerLike) -> str:
    """Return the SHA-256 of what decides the ids of a rendered chat: vocabulary, merges, added tokens, splitting.

    What only adds tokens around a text, cuts or pads (post-processor, truncation, padding) is left out.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        parts = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    else:
        # The vocabulary is megabytes and comes last: it is hashed as it is written, and only the rest is parsed.
        head, mark, model = backend.to_str().partition(',"model":{')
        settings = json.loads(head + "}" if mark else head)
        kept = ("added_tokens", "normalizer", "pre_tokenizer", "model")
        parts = json.dumps({name: settings.get(name) for name in kept}, sort_keys=True) + model
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()


def _parts_of(dataset: Described) -> list[datasets.Dataset | datasets.IterableDataset]:
    parts = list(dataset.values()) if isinstance(dataset, Mapping) else [dataset]
    if not parts or not all(hasattr(part, "info") for part in parts):
        raise PadfixError(
            f"A {type(dataset).__name__} has no place for a record of how it was encoded. Pass a datasets.Dataset."
        )
    return parts


def _is_json(value: object) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False

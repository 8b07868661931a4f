"""A saved folder as engines read it: its tokenizer, its JSON files and its templates, within limits."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.chat.traced_render import source_of
from llama_padfix.core.errors import PadfixError
from llama_padfix.core.kinds import require_path
from llama_padfix.core.text import parse_json, printable
from llama_padfix.doctor.observe.folder import read_folder
from llama_padfix.serving.folder_limits import require_ending_templates, require_small_files

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject, TokenizerLike


@dataclass(frozen=True)
class ServedFolder:
    """What engines read of a folder."""

    path: Path
    """The folder."""

    tokenizer: TokenizerLike = field(repr=False)
    """The tokenizer as transformers loads it."""

    tokenizer_config: JsonObject = field(default_factory=dict, repr=False)
    """tokenizer_config.json, empty where it is missing."""

    config: JsonObject = field(default_factory=dict, repr=False)
    """config.json, empty where it is missing."""

    generation_config: JsonObject = field(default_factory=dict, repr=False)
    """generation_config.json, empty where it is missing."""

    template_file: str | None = field(default=None, repr=False)
    """The text of chat_template.jinja."""

    day: datetime.date = field(default_factory=lambda: _serving_day(today=False))
    """The day of serving: one after the training, so that a date that is not pinned shows."""

    saved: bool = True
    """Whether there are files; False for a tokenizer in memory, see `as_served`."""

    @property
    def template_in_config(self) -> str | None:
        """The chat template in tokenizer_config.json; of several named ones, "default"."""
        held = self.tokenizer_config.get("chat_template")
        if isinstance(held, list):
            named = {entry.get("name"): entry.get("template") for entry in held if isinstance(entry, dict)}
            held = named.get("default")
        return held if isinstance(held, str) else None

    @property
    def template(self) -> str | None:
        """The chat template that transformers reads: chat_template.jinja before tokenizer_config.json."""
        return self.template_file if self.template_file is not None else self.template_in_config

    @property
    def template_file_name(self) -> str:
        """The file from which transformers reads the template."""
        if self.template is None:
            return "none: the folder has no chat template"
        return "tokenizer_config.json" if self.template_file is None else "chat_template.jinja"

    @property
    def tokens(self) -> dict[str, str]:
        """The texts of `bos_token`, `eos_token` and the like that a template gets."""
        return {str(name): str(token) for name, token in self.tokenizer.special_tokens_map.items()}

    def id_of(self, name: str) -> int | None:
        """Return the id of `bos_token` or the like by tokenizer_config.json; None where it names none."""
        held = self.tokenizer_config.get(name)
        text = held.get("content") if isinstance(held, dict) else held
        found = self.tokenizer.convert_tokens_to_ids(text) if isinstance(text, str) else None
        # A token that the vocabulary has not gets the id of the unknown one.
        return found if found is not None and self.tokenizer.convert_ids_to_tokens(found) == text else None

    def name_ids(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Return the tokens of ids as text, an id without a token as its number."""
        known = [i for i in ids if type(i) is int and 0 <= i < len(self.tokenizer)]  # files may hold anything
        tokens = dict(zip(known, self.tokenizer.convert_ids_to_tokens(known), strict=True))
        return tuple(str(tokens.get(i) if type(i) is int and tokens.get(i) is not None else i) for i in ids)


def read_served_folder(path: str | Path, *, today: bool = False) -> ServedFolder:
    """Return a folder as engines read it. No weight is read, and nothing of the folder is executed.

    Args:
        path: The folder.
        today: Whether it is served today, by a server that runs.

    Raises:
        PadfixError: there is no such folder, a file is larger than its kind ever is, the tokenizer does not load, or
            it needs code of its own.
    """
    require_path(path, "a folder", "Pass the folder that the run saved, output_dir.")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise PadfixError(f"{str(path)!r} is not a folder. Pass the folder that the run saved, output_dir.")
    require_small_files(folder)
    tokenizer_config = _read_object(folder / "tokenizer_config.json")
    if tokenizer_config.get("auto_map") or any(folder.glob("tokenization_*.py")):
        raise PadfixError(
            "The folder's tokenizer needs Python code of its own, and nothing in a folder is executed here. "
            "Save the tokenizer as tokenizer.json: PreTrainedTokenizerFast(tokenizer_file=...).save_pretrained(folder)"
        )
    tokenizer, facts = read_folder(folder)
    if Path(facts.path) != folder:  # the newest checkpoint, where the folder itself holds no run
        return read_served_folder(facts.path, today=today)
    if tokenizer is None:
        raise PadfixError(
            f"The tokenizer in {str(path)!r} does not load ({printable(facts.load_error)}). "
            "Save it beside the model: tokenizer.save_pretrained(folder)"
        )
    served = ServedFolder(
        folder,
        tokenizer,
        tokenizer_config,
        config=dict(facts.config),
        generation_config=dict(facts.generation_config),
        template_file=facts.chat_template,
        day=_serving_day(today=today),
    )
    require_ending_templates(folder, served.tokens, tokenizer.chat_template, served.template_in_config)
    return served


def _serving_day(*, today: bool) -> datetime.date:
    return datetime.date.today() + datetime.timedelta(days=0 if today else 1)


def as_served(tokenizer: TokenizerLike) -> ServedFolder:
    """Return a tokenizer in memory as engines read it once it is saved, with its template in each place.

    Raises:
        PadfixError: it has no chat template, or none for chats without a name.
    """
    try:
        source = source_of(tokenizer, None) if tokenizer.chat_template else None
    except ValueError:  # several with names, and none is "default"
        source = None
    if source is None:
        raise PadfixError(
            "The tokenizer has no chat template, so no server can render a conversation. Give it the one of the "
            "training: tokenizer.chat_template = source"
        )
    tokens = {str(name): str(token) for name, token in tokenizer.special_tokens_map.items()}
    adds_bos = getattr(tokenizer, "init_kwargs", {}).get("add_bos_token")
    held = {**tokens, "chat_template": source} | ({} if adds_bos is None else {"add_bos_token": adds_bos})
    return ServedFolder(Path("tokenizer in memory"), tokenizer, held, template_file=source, saved=False)


def _read_object(file: Path) -> JsonObject:
    if not file.is_file():
        return {}
    try:
        held = parse_json(file.read_bytes())
    except ValueError as error:
        raise PadfixError(f"{file.name} is no JSON ({printable(error)}). Save the folder again.") from None
    if not isinstance(held, dict):
        raise PadfixError(f"{file.name} holds no JSON object. Save the folder again.")
    return held

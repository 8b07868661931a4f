"""What several engines read of a folder's files: stops of the three files, and settings of sampling."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from llama_padfix.serving.engines.engine import Stops

if TYPE_CHECKING:
    from llama_padfix.serving.folder import ServedFolder

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


# `Any`: what a file holds under `eos_token_id`.
def ids_of(held: Any) -> tuple[int, ...]:
    """Return one id or several as a tuple; what is no id is left out."""
    several = held if isinstance(held, list) else [held]
    return tuple(one for one in several if type(one) is int)


def tokenizer_eos(folder: ServedFolder) -> tuple[int, ...]:
    """Return the id of the `eos_token` of tokenizer_config.json."""
    return ids_of(folder.id_of("eos_token"))


def config_eos(folder: ServedFolder) -> tuple[int, ...]:
    """Return the ids of `eos_token_id` in config.json, that of the text part where a model has several."""
    held = folder.config.get("eos_token_id")
    if held is None and isinstance(folder.config.get("text_config"), dict):
        held = folder.config["text_config"].get("eos_token_id")
    return ids_of(held)


def generation_eos(folder: ServedFolder) -> tuple[int, ...]:
    """Return the ids of `eos_token_id` in generation_config.json."""
    return ids_of(folder.generation_config.get("eos_token_id"))


def merge(*parts: Iterable[int], source: str, texts: tuple[str, ...] = ()) -> Stops:
    """Return stops of several files, each id once."""
    return Stops(tuple(dict.fromkeys(one for part in parts for one in part)), texts, source)


def sampling_of(folder: ServedFolder, names: Iterable[str] = SAMPLING) -> dict[str, object]:
    """Return the settings of sampling in generation_config.json."""
    held = folder.generation_config
    return {name: held[name] for name in names if held.get(name) is not None}


def describe_rules(package: str, read_at: str, proof: str = "read, not run") -> str:
    """Return what stands behind an engine by rules, with the installed version where it is another one.

    Args:
        package: The package that the engine comes in.
        read_at: The beginning of the version whose sources were read.
        proof: What the rules were compared with.
    """
    rules = f"rules of {package} {read_at}: {proof}"
    try:
        installed = version(package)
    except PackageNotFoundError:
        return rules
    return rules if installed.startswith(read_at) else f"{rules}; installed {installed} is not verified"

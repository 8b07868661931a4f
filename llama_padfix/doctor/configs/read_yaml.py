"""A YAML file to keywords with their places; which tool it is for is seen by its keywords."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.configs.settings import Config, Place, Setting, Tool

# Keywords that only one of the tools has, those that decide first.
_SIGNS: tuple[tuple[Tool, frozenset[str], frozenset[str]], ...] = (
    ("axolotl", frozenset({"base_model"}), frozenset({"datasets", "sequence_len", "micro_batch_size", "adapter"})),
    ("llama-factory", frozenset({"model_name_or_path"}), frozenset({"stage", "finetuning_type", "cutoff_len"})),
    ("ms-swift", frozenset({"model"}), frozenset({"tuner_type", "train_type", "dataset", "rlhf_type"})),
)


def read_yaml(text: str, name: str) -> Config | None:
    """Return the keywords of a config; None for YAML of something else.

    Args:
        text: The content of the file.
        name: The name of the file, for errors.

    Raises:
        PadfixError: The text is no YAML.
    """
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            return None
        settings = dict(_flatten(root, ""))
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise PadfixError(f"{name!r} is no YAML that can be read ({reason}). Fix it at that place.") from error
    for tool, needed, some in _SIGNS:
        if needed <= settings.keys() and some & settings.keys():
            return Config(tool, settings)
    return None


def _flatten(node: Any, prefix: str) -> Iterator[tuple[str, Setting]]:  # nodes of yaml, which has no types
    for key, value in node.value:
        if not isinstance(key.value, str):
            continue
        name, start, end = prefix + key.value, value.start_mark, value.end_mark
        if value.id == "mapping":
            yield name, Setting({}, _place(key.start_mark, key.end_mark))
            yield from _flatten(value, f"{name}.")
        elif value.id == "sequence":
            texts = [item.value for item in value.value if item.id == "scalar"]
            yield name, Setting(texts, _place(key.start_mark, key.end_mark))
            for index, item in enumerate(value.value):
                if item.id == "mapping":
                    yield from _flatten(item, f"{name}[{index}].")
        else:
            yield name, Setting(_scalar(value), _place(start, end))


def _scalar(node: Any) -> object:  # as in `_flatten`
    if node.tag.endswith(":bool"):
        return node.value.lower() in ("true", "yes", "on")
    return None if node.tag.endswith(":null") else node.value


def _place(start: Any, end: Any) -> Place:  # marks of yaml
    length = end.column - start.column if end.line == start.line else 1
    return Place(start.line + 1, start.column + 1, max(length, 1))

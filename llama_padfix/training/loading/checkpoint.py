"""What can be known of a checkpoint before any of its weights is read."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_padfix.core.choices import Choice
from llama_padfix.core.compat import converts_weights, reads_paired_merges
from llama_padfix.core.errors import PadfixError
from llama_padfix.core.hf_objects import dtype_name, read_quantization_config, text_config
from llama_padfix.core.kinds import require_max_length
from llama_padfix.core.text import parse_json
from llama_padfix.core.weights import find_broken_weights, name_weights, read_tensors
from llama_padfix.doctor.observe.folder import clear_padding_and_truncation, encode_probe, encode_with_file

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.training.loading.arguments import Keywords


_AGAIN = "Copy or download the folder again, or save it: model.save_pretrained(folder)"
# Files of JSON beside config.json, and what must stand in them.
_DOCUMENTS: dict[str, tuple[str, ...]] = {
    "tokenizer.json": ("model.vocab", "added_tokens"),
    "tokenizer_config.json": (),
    "special_tokens_map.json": (),
    "generation_config.json": (),
}


def require_complete_folder(folder: Path) -> None:
    """Raise `PadfixError` for a folder without config.json or tokenizer, and for weights that are cut or missing.

    A name that is no path here is one on the hub, and is not checked. Of safetensors files the header is read and
    compared with the size of the file; no tensor is.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise PadfixError(f"{str(folder)!r} is a file. Pass the folder that holds config.json and the weights.")
    held = sorted(item.name for item in folder.iterdir())
    if "config.json" not in held:
        seen = f"{str(folder)!r} holds no config.json (it has: {', '.join(held[:8]) or 'nothing'})."
        if "adapter_config.json" in held:
            raise PadfixError(
                f"{seen} It is an adapter. Load its base model, and the adapter onto it: "
                f"model, tokenizer = load(base); model = peft.PeftModel.from_pretrained(model, {str(folder)!r})"
            )
        raise PadfixError(f"{seen} Save the model there: model.save_pretrained({str(folder)!r})")
    if not any(name.startswith(("tokenizer", "vocab", "spiece", "tekken")) for name in held):
        raise PadfixError(
            f"{str(folder)!r} holds a model but no tokenizer. Save it there: "
            f"tokenizer.save_pretrained({str(folder)!r})"
        )
    for fault in find_broken_weights(folder):
        raise PadfixError(fault)
    for name, needed in _DOCUMENTS.items():
        _require_readable(folder / name, needed)


def _require_readable(file: Path, needed: tuple[str, ...]) -> None:
    """Raise `PadfixError` for a file of JSON that is cut short or damaged, or that lacks a part."""
    if not file.is_file():
        return
    try:
        held = parse_json(file.read_text(encoding="utf-8"))
        for part in needed:
            place = held
            for name in part.split("."):
                place = place[name]
        seen = "" if isinstance(held, dict) else f"holds a {type(held).__name__}, and no fields"
    except KeyError as error:
        seen = f"lacks {error}"
    except (OSError, ValueError, LookupError, TypeError) as error:
        seen = f"cannot be read ({error})"
    if seen:
        saved = "tokenizer" if "token" in file.name else "model.generation_config"
        raise PadfixError(
            f"{str(file)!r} {seen}: it is cut short or damaged. Copy or download it again, or save it: "
            f"{saved}.save_pretrained(folder)"
        )


def require_ids(config: PretrainedConfig, path: str) -> None:
    """Raise `PadfixError` for a pad id in the config for which the embedding has no row: no model can be built so."""
    text = text_config(config)
    rows, pad = getattr(text, "vocab_size", None), getattr(text, "pad_token_id", None)
    if isinstance(rows, int) and isinstance(pad, int) and not -rows <= pad < rows:
        raise PadfixError(
            f"config.json of {path!r} has pad_token_id={pad}, and the embedding has {rows} rows. The pad token is the "
            f"tokenizer's to choose, so leave it out: load({path!r}, pad_token_id=None)"
        )


def require_rows(tokenizer: TokenizerLike, config: PretrainedConfig, path: str) -> None:
    """Raise `PadfixError` where the tokenizer has an id for which the model's embedding has no row."""
    rows = getattr(text_config(config), "vocab_size", None)
    vocabulary = tokenizer.get_vocab()
    if not isinstance(rows, int) or not vocabulary:
        return
    token, highest = max(vocabulary.items(), key=lambda item: item[1])
    if highest >= rows:
        raise PadfixError(
            f"The tokenizer of {path!r} has ids up to {highest} ({token!r}), and the embedding has {rows} rows: "
            "training would stop with IndexError, or with a device-side assert. Give it the rows once: "
            f"model = AutoModelForCausalLM.from_pretrained({path!r}); model.resize_token_embeddings({highest + 1}); "
            f"model.save_pretrained({path!r})"
        )


def require_length(max_length: int | None, config: PretrainedConfig) -> None:
    """Raise `PadfixError` for what is no length, or one beyond the positions that the model was trained with."""
    require_max_length(max_length)
    if max_length is None:
        return
    text = text_config(config)
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int) or max_length <= positions:
        return
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default" if isinstance(scaling, dict) else "default"
    if kind in ("default", "llama3"):  # the others have a factor by which they reach beyond them
        raise PadfixError(
            f"max_length={max_length} is beyond the {positions} positions (max_position_embeddings) that the model "
            f"was trained with. Pass a shorter one, max_length={positions}, or a rope scaling of your own with config="
        )


# `Any`: a `PreTrainedModel`; None only for code from the hub.
def build_shape(config: PretrainedConfig, trust_remote_code: bool = False) -> Any:
    """Return the model of a config on the meta device, with no numbers; None where code of its own cannot be built so.

    Raises:
        PadfixError: The fields of the config contradict each other, or it is of no causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # code from the hub may compute with its weights as it is built: checks come later then
        if trust_remote_code:
            return None
        raise PadfixError(
            f"The model that config.json describes cannot be built ({type(error).__name__}: {error}). Fix the field "
            "that this names, or copy the config.json again that was saved with the weights."
        ) from error


# `Any` as `build_shape` returns it
def require_weights(folder: Path, shape: Any, config: PretrainedConfig) -> Choice | None:
    """Raise `PadfixError` for files that lack a weight of the model, or have one of another shape or type.

    transformers draws at random what it does not find. It loads the headers of the files here, without their numbers,
    so that renamed, joined, tied and ignored weights are what they are to it. Nothing is checked before transformers 5
    and for quantized checkpoints.

    Returns:
        What was not looked at: files of torch before 1.6, whose numbers lie among the shapes. None as a rule.
    """
    files = _choose_files(folder)
    if (
        not files
        or shape is None
        or not converts_weights()
        or read_quantization_config(config)
        or (folder / "adapter_config.json").is_file()
    ):
        return None
    if old := [path.name for path in files if path.suffix == ".bin" and not zipfile.is_zipfile(path)]:
        reason = f"{old[0]} is of torch before 1.6: which weights it holds shows when it is loaded. Save it again: "
        return Choice("files", "not looked at", f"{reason}model.save_pretrained(folder)", "warning")
    read = {".bin": _read_bin}
    held = {name: entry for path in files for name, entry in read.get(path.suffix, read_tensors)(path).items()}
    for name, (kind, _) in held.items():
        if name.endswith(".weight") and (kind.startswith(("I", "U")) or kind == "BOOL"):
            raise PadfixError(
                f"{name!r} in {str(folder)!r} is of type {kind}: whole numbers, and no weights. {_AGAIN}"
            )
    found = _load_shapes(shape, config, {name: sizes for name, (_, sizes) in held.items()})
    where = f"config.json of {str(folder)!r} describes {type(shape).__name__}"
    if isinstance(found, str):
        raise PadfixError(f"{where}, and its weights cannot be made of those in the files: {found} {_AGAIN}")
    missing, others, unknown = found
    if others:
        name, seen, wanted = others[0]
        raise PadfixError(
            f"{where}, and {len(others)} weights have other shapes, such as {name}: {tuple(seen)} in the files, "
            f"{tuple(wanted)} by the config. Copy the config.json again that was saved with these weights."
        )
    require_all_found(missing, str(folder), unknown)
    return None


def _choose_files(folder: Path) -> list[Path]:
    """Return the files of weights that transformers loads: those of safetensors where there are any."""
    single = folder / "model.safetensors"
    named = [single] if single.is_file() else name_weights(folder)
    return [path for path in named if path.suffix == ".safetensors"] or [p for p in named if p.suffix == ".bin"]


def _read_bin(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Return the type and the shape of each tensor in a file of torch; no code in it is run, and no number is read."""
    import torch

    try:
        held = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except Exception as error:  # pickles may raise anything
        raise PadfixError(
            f"{str(path)!r} cannot be read without running code in it ({type(error).__name__}: {error}). Save the "
            "model again where it was made: model.save_pretrained(folder)"
        ) from error
    tensors = {name: value for name, value in dict(held).items() if isinstance(value, torch.Tensor)}
    return {name: (dtype_name(value.dtype).upper(), list(value.shape)) for name, value in tensors.items()}


def require_all_found(missing: Iterable[str], path: str, unknown: Sequence[str] = ()) -> None:
    """Raise `PadfixError` where weights of the model are in none of its files; `unknown` are others that are there."""
    names = sorted(missing)
    if names and converts_weights():
        strange = f" The files hold {len(unknown)} that it does not know, such as {unknown[0]}." if unknown else ""
        raise PadfixError(
            f"{len(names)} weights of the model that config.json of {path!r} describes are in no file, such as "
            f"{names[0]}: they would be drawn at random.{strange} {_AGAIN}"
        )


def _load_shapes(
    shape: Any, config: PretrainedConfig, sizes: dict[str, list[int]]
) -> tuple[list[str], list[tuple[str, list[int], list[int]]], list[str]] | str:
    """Return the names of missing weights, those of another shape with both, and those that are unknown.

    Text where the weights cannot be joined.
    """
    import copy
    import logging

    import torch
    from transformers.utils import logging as settings

    numbers = {name: torch.empty(size, dtype=torch.float32, device="meta") for name, size in sizes.items()}
    bar, level = settings.is_progress_bar_enabled(), settings.get_verbosity()
    settings.disable_progress_bar()
    settings.set_verbosity(logging.CRITICAL + 1)  # what it reports is in the error
    try:
        with torch.random.fork_rng(devices=[]):
            _, found = type(shape).from_pretrained(
                None,
                config=copy.deepcopy(config),
                state_dict=numbers,
                device_map={"": "meta"},
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                local_files_only=True,
            )
    except RuntimeError as error:
        return str(error)
    finally:
        settings.set_verbosity(level)
        if bar:
            settings.enable_progress_bar()
    return sorted(found["missing_keys"]), sorted(found["mismatched_keys"]), sorted(found["unexpected_keys"])


def load_tokenizer(
    path: str, *, strict: bool = False, **from_pretrained: object
) -> tuple[PreTrainedTokenizerBase, Choice | None]:
    """Return the tokenizer, with the ids that its tokenizer.json has, and a choice where that took another class.

    transformers 5.0 to 5.21 rebuild the splitting of some classes (`LlamaTokenizerFast` on Llama 3's vocabulary
    among them), so the ids of a probe text are compared with those that the package tokenizers reads from the file.
    Where they differ the file is loaded as `PreTrainedTokenizerFast`.

    Raises:
        PadfixError: That gives other ids too, they differ and `strict` is set, or the installed tokenizers cannot read
            the form of the file.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **from_pretrained)
    except Exception as error:  # the package tokenizers raises bare Exceptions
        if "enum ModelWrapper" not in str(error) or reads_paired_merges():
            raise
        raise PadfixError(
            f"The tokenizer.json of {path!r} has merges as pairs, as tokenizers 0.20 and newer write them, and the "
            "installed tokenizers is older. Run: pip install -U 'transformers>=4.45'"
        ) from error
    return verify_ids(tokenizer, path, strict=strict, **from_pretrained)


def verify_ids(
    tokenizer: PreTrainedTokenizerBase, path: str, *, strict: bool = False, **from_pretrained: object
) -> tuple[PreTrainedTokenizerBase, Choice | None]:
    """Return this tokenizer if its ids are those of tokenizer.json, else one that has them (see `load_tokenizer`).

    Padding and truncation that the file holds are switched off, so that saving does not write them again.
    """
    file = _find_file(path, "tokenizer.json", from_pretrained)
    raw, _, baked = encode_with_file(file) if file is not None else ((), False, {})
    if not raw or encode_probe(tokenizer) == raw:
        return tokenizer, _clear(tokenizer, baked)
    import transformers

    seen = (
        f"{type(tokenizer).__name__} of transformers {transformers.__version__} gives "
        f"{len(encode_probe(tokenizer))} ids for a probe text that has {len(raw)} by its tokenizer.json"
    )
    if strict:
        raise PadfixError(f"{seen}. Upgrade: pip install 'transformers>=5.22' (5.0 to 5.21 rebuild the splitting)")
    keywords = {name: value for name, value in from_pretrained.items() if name != "trust_remote_code"}
    repaired = transformers.PreTrainedTokenizerFast.from_pretrained(path, **keywords)
    if encode_probe(repaired) != raw:
        raise PadfixError(
            f"{seen}, and so does PreTrainedTokenizerFast. What is trained on them reads another language than the "
            "model knows. Upgrade: pip install 'transformers>=5.22'"
        )
    _clear(repaired, baked)
    taken = Choice("tokenizer", "PreTrainedTokenizerFast", f"{seen}; this class takes the file as it is", "warning")
    return repaired, taken


def _clear(tokenizer: PreTrainedTokenizerBase, baked: dict[str, str]) -> Choice | None:
    """Switch off what tokenizer.json does to every text; return that as a choice, None where it does nothing."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not baked or backend is None:
        return None
    clear_padding_and_truncation(backend)
    why = f"tokenizer.json holds {' and '.join(baked.values())}, left by an earlier call and not meant for every text"
    return Choice("tokenizer padding", "off", why)


def _find_file(path: str, name: str, keywords: Keywords) -> Path | None:
    """Return the file in the folder, or in the cache of the hub, where loading has just put it."""
    if Path(path).is_dir():
        return Path(path) / name
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(path, name, cache_dir=keywords.get("cache_dir"), revision=keywords.get("revision"))
    return Path(found) if isinstance(found, str) else None

"""What a run saved, asked as it is: nothing is patched, since that is what will be served."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_padfix.core.compat import name_dtype_argument
from llama_padfix.core.errors import PadfixError
from llama_padfix.core.weights import name_weights
from llama_padfix.doctor.observe.folder import find_run
from llama_padfix.serving.generation.check_stops import check_stops
from llama_padfix.serving.generation.stop_prompts import find_record

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.serving.generation.stop_report import StopReport

_HELD_BACK = ("test", "validation", "valid", "val", "eval", "dev")


def check_folder(
    path: str | Path, rows: Any, count: int, *, max_new_tokens: int, progress: bool
) -> StopReport:  # rows of any kind
    """Return what `check_stops` finds with the model of a folder, loaded on the CPU.

    Args:
        path: The folder, or one that holds checkpoints alone, of which the newest is taken.
        rows: A sequence of rows, or splits, of which one that is held back is taken; None for questions of its own.
        count: How many rows to generate from, spread over all.
        max_new_tokens: The most tokens of an answer.
        progress: Show a progress bar.

    Raises:
        PadfixError: The folder holds no weights, does not load, or no row gives a prompt.
    """
    chosen, encoding = None, None
    if rows is not None:
        split = _choose_split(rows)
        step = max(len(split) // count, 1)
        chosen = [split[place] for place in range(0, len(split), step)][:count]
        encoding = find_record(split)
    model, tokenizer = load_saved(path)
    return check_stops(model, tokenizer, chosen, encoding=encoding, max_new_tokens=max_new_tokens, progress=progress)


def _choose_split(rows: Any) -> Any:  # a sequence of rows
    """Return the rows, of several splits those that are named as held back, else the last ones."""
    if not isinstance(rows, Mapping):
        return rows
    return next((rows[name] for name in _HELD_BACK if name in rows), rows[list(rows)[-1]])


def load_saved(path: str | Path) -> tuple[Any, TokenizerLike]:  # a model of any class
    """Return model and tokenizer of a folder, in the dtype that they were saved in; no code of the folder is run.

    Args:
        path: As for `check_folder`.

    Raises:
        PadfixError: The folder holds no weights, or transformers does not load it.
    """
    given = Path(path)
    if not given.is_dir():
        raise PadfixError(f"{str(path)!r} is no folder to generate with. Pass the folder that the run saved.")
    folder = find_run(given)[0]
    if not any(file.is_file() for file in name_weights(folder)) and not list(folder.glob("adapter_model.*")):
        raise PadfixError(
            f"{str(folder)!r} holds no weights to generate with. Pass the folder that the run saved, output_dir."
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), local_files_only=True, **{name_dtype_argument(): "auto"}
        )
    except Exception as error:  # whatever a damaged folder makes transformers raise
        reason = " ".join(str(error).split())
        raise PadfixError(
            f"{str(folder)!r} does not load ({type(error).__name__}: {reason}). See: llama-padfix doctor {folder}"
        ) from error
    return model, tokenizer

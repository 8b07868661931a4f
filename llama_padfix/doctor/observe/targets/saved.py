"""A saved folder or a GGUF file, with rows beside it, as an observation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.facts import FolderFacts
from llama_padfix.doctor.observe.folder import RUN_FILES, read_folder, saved_model
from llama_padfix.doctor.observe.gguf.vocabulary import LEFT_OUT, open_gguf
from llama_padfix.doctor.observe.targets.given import name_parts, observe_parts
from llama_padfix.doctor.observe.targets.observation import Beside, Observation
from llama_padfix.doctor.observe.targets.tokenizer_search import choose_tokenizer
from llama_padfix.doctor.observe.tokenizer import observe_pair, observe_tokenizer


def observe_saved(path: str, beside: Beside, max_rows: int | None) -> Observation:
    """Observe a folder, or the header of a GGUF file.

    Args:
        path: where it lies.
        beside: a tokenizer, which is compared with the folder's or stands in for it, and rows.
        max_rows: the most rows to read; None for all.

    Raises:
        PadfixError: There is neither a folder nor a GGUF file, it cannot be read, or a live model was given with it.
    """
    for name, held in (("model", beside.model), ("optimizer", beside.optimizer)):
        if held is not None:
            raise PadfixError(
                f"{name}= has no meaning beside what was saved. Diagnose it with its tokenizer: "
                f"diagnose(tokenizer, model=model{', optimizer=optimizer' if name == 'optimizer' else ''})"
            )
    place = Path(path).expanduser()
    found = sorted(place.glob("*.gguf")) if place.is_dir() else [place] if place.suffix == ".gguf" else []
    if found and (found == [place] or not any((place / name).is_file() for name in RUN_FILES)):
        return _observe_gguf(found, beside)
    own, folder = read_folder(place, exact=beside.dataset is not None)
    known = choose_tokenizer(own, ("tokenizer=", beside.tokenizer))
    model = saved_model(folder)
    facts = known.add_to(replace(observe_pair(known.tokenizer, model), folder=folder, notes=tuple(_explain(folder))))
    facts, rows, complete = observe_parts(
        facts, name_parts(beside.dataset), known.tokenizer, max_rows, beside.processor
    )
    return Observation(facts, rows, complete, known.tokenizer, model, saved_as="folder")


def _explain(folder: FolderFacts) -> Iterator[str]:
    """Yield what was looked at in the place of the folder, and what beside it was not."""
    newest = folder.checkpoints[-1] if folder.checkpoints else ""
    if folder.given != folder.path:
        yield f"{folder.given} holds checkpoints alone: looked at the newest of {len(folder.checkpoints)}, {newest}."
    elif newest:
        yield f"Looked at {folder.path}, and at none of its {len(folder.checkpoints)} checkpoints (last {newest})."
    if folder.adapter_config and not folder.config:
        base = folder.adapter_config.get("base_model_name_or_path")
        if folder.base_is_here:
            looked = "only the rows of its embedding and its stop list were compared (SAV008, SAV009)"
        else:
            looked = "it is neither a folder here nor in the cache, so whether the adapter fits it was not looked at"
        yield f"The folder holds an adapter. Of its base model {base!r}: {looked}."


def _observe_gguf(files: list[Path], beside: Beside) -> Observation:
    if beside.dataset is not None:
        raise PadfixError(
            "Rows have no meaning beside a GGUF file, of which only the header is read. Diagnose them with the "
            "tokenizer that encoded them: diagnose(tokenizer, dataset=...)"
        )
    tokenizer, model, notes = open_gguf(files[0])
    more = (f"Not looked at: {', '.join(file.name for file in files[1:])}.",) if files[1:] else ()
    facts = replace(observe_tokenizer(tokenizer, model), notes=(*notes, *more))
    known = choose_tokenizer(tokenizer, ("tokenizer=", beside.tokenizer))
    return Observation(known.add_to(facts), tokenizer=tokenizer, model=model, saved_as="GGUF file", left_out=LEFT_OUT)

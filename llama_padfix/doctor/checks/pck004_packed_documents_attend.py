"""PCK004: documents of one row have position ids of their own, and attend to one another all the same.

`DataCollatorWithFlattening` and packing begin the position ids anew with each document. FlashAttention keeps to
them. sdpa and eager do so only where the model gets no attention mask and keeps no cache: a mask of ones, or
`use_cache=True`, lets every document see those before it. transformers 5 and TRL switch the cache off for training;
`model(**batch)` in a loop of one's own does not.
"""

from llama_padfix.doctor.check_helpers import real_span
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    if row.position_ids is None or row.source == "dataset" or facts.model is None:
        return
    first, last = real_span(row)
    starts = (row.position_ids[first + 1 : last] == 0).nonzero()[0] + first + 1
    reason = _why_not_isolated(row, facts)
    if len(starts) and reason:
        yield Hit(int(starts[0]), int(starts[0]) + 1, len(starts), reason)


def _why_not_isolated(row: RowFacts, facts: Facts) -> str:
    model, trainer = facts.model, facts.trainer
    if model is None or "flash" in (model.attention or "flash"):
        return ""
    if row.attention_mask is not None:
        is_numbered = len(set(row.attention_mask.tolist()) - {0}) > 1  # documents, for a patched attention
        return "" if is_numbered else "the batch has an attention mask: drop it"
    if trainer is not None and trainer.documents_isolated is False:
        return f"the code of the model does not read position ids with {model.attention}"
    checkpoints = trainer is not None and trainer.arguments.get("gradient_checkpointing") and "train" in row.source
    if not model.use_cache or checkpoints or (trainer is not None and trainer.passes_cache_off):
        return ""  # recomputing activations switches the cache off as well
    return "model.config.use_cache is True: set it to False"


CHECK = Check(
    code="PCK004",
    name="packed-documents-attend",
    severity="warning",
    needs=("rows", "model"),
    message="{rows} of {seen} rows ({where}) hold {count} further documents that attend to those before them, though "
    "their position ids begin anew. Set model.config.use_cache = False, and give the model no attention_mask.",
    traps=(25,),
    doc=__doc__,
    bad="model(**DataCollatorWithFlattening()(rows))  # model.config.use_cache is True",
    good="model.config.use_cache = False; model(**DataCollatorWithFlattening()(rows))",
    inspect=_inspect,
)

"""PCK004: documents that are packed into one row attend to one another, although their borders are given.

`DataCollatorWithFlattening` and packing begin the position ids anew with each document. FlashAttention keeps to
them, and to `cu_seq_lens`, which no other attention reads. sdpa and eager do so only where the model gets no attention
mask and keeps no cache: a mask of ones, or `use_cache=True`, lets every document see those before it. transformers 5
and TRL switch the cache off for training; `model(**batch)` in a loop of one's own does not.
"""

from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    if not row.before or row.source.startswith("dataset") or facts.model is None:
        return
    if reason := _why_not_isolated(row, facts):
        yield Hit(0, 1, remark=reason)


def _why_not_isolated(row: RowFacts, facts: Facts) -> str:
    model, trainer = facts.model, facts.trainer
    if model is None or "flash" in (model.attention or "flash"):
        return ""
    if row.attention_mask is not None:
        is_numbered = bool((row.attention_mask > 1).any())  # documents, for a patched attention
        return "" if is_numbered else "the batch has an attention mask: drop it"
    if row.position_ids is None:
        return f"the batch has no position_ids, and {model.attention} reads no cu_seq_lens"
    if trainer is not None and trainer.documents_isolated is False:
        return f"the code of the model does not read position ids with {model.attention}"
    checkpoints = trainer is not None and trainer.arguments.get("gradient_checkpointing") and "train" in row.source
    if row.cache_is_off or not model.use_cache or checkpoints or (trainer is not None and trainer.passes_cache_off):
        return ""  # recomputing activations switches the cache off as well
    return "model.config.use_cache is True: set it to False"


CHECK = Check(
    code="PCK004",
    name="packed-documents-attend",
    severity="warning",
    needs=("rows", "model"),
    message="{rows} of {seen} rows ({where}) share a row of their batch with others, and attend to those before them. "
    "Set model.config.use_cache = False, and give the model position_ids and no attention_mask.",
    traps=(25,),
    doc=__doc__,
    bad="model(**DataCollatorWithFlattening()(rows))  # model.config.use_cache is True",
    good="model.config.use_cache = False; model(**DataCollatorWithFlattening()(rows))",
    inspect=_inspect,
)

"""Whether a model keeps the documents of a packed row apart: tried on the model itself, not read from its name.

Two documents run through the model packed, in the batch that a run would give it, and each alone. The logits of a
document must be those of the document alone, and their gradient at the embeddings of any other document must be 0: it
is exactly 0 where attention is masked, in any precision, while a convolution leaks so little in an untrained model
that the logits alone do not show it. Whole families fail in silence with position ids that begin anew: models with a
state or a convolution, and those whose code does not read position ids for the attention mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_padfix.encoding.packing.collator import Layout, PackCollator

if TYPE_CHECKING:
    import torch

    from llama_padfix.core.types import ModelLike

# Tokens of the documents that are tried: two of them in a row, and one in a shorter row.
_DOCUMENTS = ((12, 9), (7,))
# The largest difference between logits, in standard deviations of the logits: what rounding leaves.
_LIMIT, _LIMIT_LOW_PRECISION = 1e-3, 0.1
# The largest gradient at another document's embeddings, in parts of the largest at a document's own.
_LEAK_LIMIT = 1e-6


@dataclass(frozen=True)
class Isolation:
    """What packing comes to with one model."""

    layout: Layout | None
    """How packed rows lie in a batch; None where no layout keeps documents apart, so that rows are padded."""
    reason: str
    """What was tried and measured, in words."""

    def __str__(self) -> str:
        return f"packing: {self.reason}"


def try_packing(model: ModelLike | None, pad_token_id: int) -> Isolation:
    """Return the first layout in which the model keeps packed documents apart. The model is left as it was.

    Args:
        model: The model to train, with weights; None where there is none to try it on.
        pad_token_id: As for `PackCollator`.
    """
    if model is None:
        why = "no model was given to try it on: pass it to prepare(tokenizer, model, packing=True) before training"
        return Isolation("rows", why)
    attention = getattr(model.config, "_attn_implementation", None) or "its own"
    layouts: tuple[Layout, ...] = ("flat", "rows") if "flash" in attention else ("rows", "flat")
    failed = []
    for layout in layouts:
        try:
            difference, leak = measure_isolation(model, PackCollator(pad_token_id, layout))
        except Exception as error:  # the code of any model, which may raise anything for arguments that it lacks
            seen = (str(error).strip().splitlines() or ["no message"])[0][:120]
            failed.append(f"{layout}: {type(error).__name__}: {seen}")
            continue
        if difference <= _limit_of(model) and leak <= _LEAK_LIMIT:
            why = (
                f"{attention} attention keeps packed documents apart (layout {layout!r}, difference {difference:.0e})"
            )
            return Isolation(layout, why)
        failed.append(f"{layout}: logits differ by {difference:.2g} standard deviations, gradients leak {leak:.2g}")
    reason = f"{type(model).__name__} with {attention} attention lets packed documents see one another"
    return Isolation(None, f"{reason} ({'; '.join(failed)}), so rows are not packed but padded, each on its own")


def measure_isolation(
    model: Any, collator: PackCollator
) -> tuple[float, float]:  # Any: called with what a batch holds
    """Return how far documents of a packed batch depend on one another.

    Args:
        model: A causal language model; it runs without dropout.
        collator: What makes the batches of the run.

    Returns:
        The largest difference between logits of documents packed and alone, in standard deviations of the logits; and
        the largest gradient of a document's logits at the embeddings of others, in parts of the largest at its own.
    """
    import torch

    rows = _make_rows(int(model.get_input_embeddings().weight.shape[0]))
    device = model.get_input_embeddings().weight.device
    batch = {name: value for name, value in collator(rows).items() if name != "labels"}
    batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.enable_grad():
            packed, embedded = _run(model, batch)
            together = _cut_documents(packed.float(), rows, collator.layout)
            gradients = [torch.autograd.grad(part.square().sum(), embedded, retain_graph=True)[0] for part in together]
        with torch.no_grad():
            alone = [
                model(input_ids=torch.tensor([document], device=device), use_cache=False).logits[0].float()
                for row in rows
                for document in _split(row)
            ]
    finally:
        for module in training:
            module.training = True
    spread = torch.cat(alone).std().clamp_min(1e-12)
    gaps = [(one.detach() - other).abs().max() / spread for one, other in zip(together, alone, strict=True)]
    leaks = []
    for number, gradient in enumerate(gradients):
        sizes = [part.abs().max() for part in _cut_documents(gradient.float(), rows, collator.layout)]
        own = sizes.pop(number)
        leaks.append(torch.stack(sizes).max() / own)
    return _largest(gaps), _largest(leaks)


def _run(model: Any, batch: dict[str, object]) -> tuple[torch.Tensor, torch.Tensor]:  # Any: a module
    """Return the logits, and the embeddings that they were computed from, which a gradient can be taken at."""
    seen: list[torch.Tensor] = []

    def keep(module: object, given: object, embedded: torch.Tensor) -> torch.Tensor:
        seen.append(embedded.detach().requires_grad_())
        return seen[-1]

    handle = model.get_input_embeddings().register_forward_hook(keep)
    try:
        return model(**batch).logits, seen[0]
    finally:
        handle.remove()


def _largest(values: list[torch.Tensor]) -> float:
    import torch

    largest = float(torch.stack(values).max())
    return largest if largest == largest else float("inf")  # nan is no proof


def _make_rows(vocabulary: int) -> list[dict[str, list[int]]]:
    """Return packed rows of small ids, no two documents alike."""
    rows, number = [], 0
    for lengths in _DOCUMENTS:
        ids = [(number + place) * 7 % min(vocabulary, 1000) for place in range(sum(lengths))]
        rows.append({"input_ids": ids, "labels": ids, "seq_lengths": list(lengths)})
        number += sum(lengths)
    return rows


def _split(row: dict[str, list[int]]) -> list[list[int]]:
    ids, documents = iter(row["input_ids"]), []
    for length in row["seq_lengths"]:
        documents.append([next(ids) for _ in range(length)])
    return documents


def _cut_documents(logits: Any, rows: list[dict[str, list[int]]], layout: Layout) -> list[Any]:  # Any: tensors
    """Return the logits of each document of a packed batch."""
    if layout == "flat":
        return list(logits[0].split([length for row in rows for length in row["seq_lengths"]]))
    return [
        part
        for own, row in zip(logits, rows, strict=True)
        for part in own[: len(row["input_ids"])].split(row["seq_lengths"])
    ]


def _limit_of(model: Any) -> float:  # Any: a module
    import torch

    dtypes = {parameter.dtype for parameter in model.parameters()}
    return _LIMIT if dtypes <= {torch.float32, torch.float64} else _LIMIT_LOW_PRECISION

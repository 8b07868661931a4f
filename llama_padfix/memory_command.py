"""The command `llama-padfix memory`: what a step will need, and what fits."""

from __future__ import annotations

import argparse
import json

from llama_padfix.memory import MemoryEstimate, estimate_memory
from llama_padfix.memory_step import OPTIMIZERS

__all__ = ["add_memory_command"]


def add_memory_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `memory MODEL` to the parser's commands; its `run` prints the estimate and returns 0, or 1 if too large."""
    parser = commands.add_parser(
        "memory",
        help="estimate the memory of a training step, without loading the model",
        description="Exit status: 0 estimated (and it fits into --gpu), 1 it does not fit, 2 could not run. "
        "Only config.json is read.",
    )
    parser.add_argument("model", metavar="MODEL", help="a name on the hub, or a folder with config.json")
    parser.add_argument("--batch", metavar="N", type=_positive, default=1, help="rows at once (1)")
    parser.add_argument("--length", metavar="N", type=_positive, default=2048, help="tokens a row (2048)")
    parser.add_argument("--accumulation", metavar="N", type=_positive, default=1, help="batches an update (1)")
    parser.add_argument("--quantization", choices=("nf4", "int8"), help="of the frozen weights; implies --lora")
    parser.add_argument(
        "--lora", metavar="R", type=_positive, nargs="?", const=16, help="train adapters of this rank (16)"
    )
    parser.add_argument("--precision", choices=("bf16", "fp16", "fp32"), help="(bf16, or what the GPU here computes)")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw_torch_fused", help="(adamw_torch_fused)")
    parser.add_argument("--attention", choices=("sdpa", "eager", "flash_attention_2"), default="sdpa", help="(sdpa)")
    parser.add_argument("--gpu", metavar="GIB", type=float, help="the GPU's memory: say what fits into it")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=_estimate)


def _estimate(options: argparse.Namespace) -> int:
    rank = options.lora or (16 if options.quantization else None)
    estimate = estimate_memory(
        options.model,
        batch=options.batch,
        length=options.length,
        gradient_accumulation_steps=options.accumulation,
        quantization=options.quantization,
        lora={"r": rank, "lora_alpha": rank} if rank else None,
        precision=options.precision,
        gradient_checkpointing=not options.no_checkpointing,
        optimizer=options.optimizer,
        attention=options.attention,
    )
    advice = estimate.advise(options.gpu) if options.gpu else None
    if options.json:
        told = estimate.to_dict() | ({"advice": vars(advice)} if advice else {})
        print(json.dumps(told, indent=2))  # noqa: T201
    else:
        print(estimate)  # noqa: T201
        if advice:
            print(advice)  # noqa: T201
    return int(advice is not None and not _fits(estimate, advice.batch, advice.length))


def _fits(estimate: MemoryEstimate, batch: int, length: int) -> bool:
    return estimate.plan.batch <= batch and estimate.plan.length <= length


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)

"""`llama-padfix memory`: estimate the memory of a training step."""

from __future__ import annotations

import argparse
import json

from llama_padfix import estimate_memory
from llama_padfix.cli.arguments import Commands, add_command, positive, size
from llama_padfix.training.memory.step_plan import OPTIMIZERS


def add_parser(commands: Commands) -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "memory",
        help="estimate the memory of a training step, without loading the model",
        description="Exit status: 0 estimated (and it fits into --gpu), 1 it does not fit, 2 could not run. "
        "Only config.json is read.",
        examples=("memory meta-llama/Llama-3.1-8B --quantization nf4 --gpu 24", "memory out --lora 32 --batch 4"),
    )
    parser.add_argument("model", metavar="MODEL", help="a name on the hub, or a folder with config.json")
    parser.add_argument("--batch", metavar="N", type=positive, default=1, help="rows of a micro-batch (1)")
    parser.add_argument(
        "--length", metavar="N", type=positive, default=2048, help="tokens of a row: the max_length of the run (2048)"
    )
    parser.add_argument("--accumulation", metavar="N", type=positive, default=1, help="micro-batches an update (1)")
    parser.add_argument("--quantization", choices=("nf4", "int8"), help="of the frozen weights; implies --lora")
    parser.add_argument(
        "--lora", metavar="R", type=positive, nargs="?", const=16, help="train adapters of this rank (16)"
    )
    parser.add_argument(
        "--precision",
        choices=("bf16", "fp16", "fp32"),
        help="what the run computes in (bf16, or what the GPU here computes)",
    )
    parser.add_argument(
        "--no-checkpointing", action="store_true", help="keep all activations, without gradient checkpointing"
    )
    parser.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        default="adamw_torch_fused",
        help="the optimizer by its name in TrainingArguments (adamw_torch_fused)",
    )
    parser.add_argument(
        "--attention",
        choices=("sdpa", "eager", "flash_attention_2"),
        default="sdpa",
        help="the attention kernel (sdpa)",
    )
    parser.add_argument("--gpu", metavar="GIB", type=size, help="the GPU's memory: say what fits into it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the estimate; return the exit status."""
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
        print(json.dumps(estimate.to_dict() | ({"advice": vars(advice)} if advice else {}), indent=2))
    else:
        print(*filter(None, (estimate, advice)), sep="\n")
    return int(advice is not None and (advice.batch < options.batch or advice.length < options.length))

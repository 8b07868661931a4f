"""How many processes train together, and what they agree on."""

from __future__ import annotations

from collections.abc import Sequence


def count_processes() -> int:
    """Return how many processes torch.distributed has joined; 1 without it."""
    import torch.distributed as together

    return together.get_world_size() if together.is_available() and together.is_initialized() else 1


def get_rank() -> int:
    """Return the number of this process among them, from 0."""
    import torch.distributed as together

    return together.get_rank() if count_processes() > 1 else 0


def agree(flags: Sequence[bool]) -> list[bool]:
    """Return each flag as True where any process has it; every process must call this at the same place."""
    import torch
    import torch.distributed as together

    if count_processes() == 1:
        return list(flags)
    device = f"cuda:{torch.cuda.current_device()}" if "nccl" in together.get_backend() else "cpu"
    votes = torch.tensor([float(flag) for flag in flags], device=device)
    together.all_reduce(votes, op=together.ReduceOp.MAX)
    return [vote > 0 for vote in votes.tolist()]

"""LOD003: fewer processes, or less sharding, than the launcher or the arguments set.

`accelerate launch --cpu --num_processes 2` starts one process and exits with 0. A script started by `python` inside a
two-process job never joins it. `fsdp=` on gloo is plain DDP. The run then takes as long as on one device, reads the
whole dataset in each process, or runs out of memory. Nothing is raised.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings

_SHARDED = {"fsdp": ("FSDP",), "deepspeed": ("DEEPSPEED",)}


def _find(facts: Facts) -> Findings:
    trainer = facts.trainer
    if trainer is None:
        return
    announced = trainer.expected_world_size
    if announced is not None and announced > trainer.world_size:
        yield CHECK.found(
            f"The launcher announced {announced} processes, and the trainer runs with {trainer.world_size}: each "
            "process trains alone, on all of the data. "
            f"On CPUs run: torchrun --nproc-per-node {announced} train.py"
        )
    kind = trainer.sharding_requested
    if kind is not None and trainer.distributed_type not in _SHARDED[kind]:
        yield CHECK.found(
            f"{kind}= is set, and the trainer runs as {trainer.distributed_type} with {trainer.world_size} "
            "process(es): every device holds the whole model."
        )


CHECK = Check(
    code="LOD003",
    name="fewer-processes-than-announced",
    severity="error",
    needs=("trainer",),
    traps=(31,),
    doc=__doc__,
    bad="accelerate launch --cpu --num_processes 2 train.py  # one process",
    good="torchrun --nproc-per-node 2 train.py",
    find=_find,
)

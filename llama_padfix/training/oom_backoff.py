"""Training that goes on with a smaller batch when memory runs out, and with the same rows in every update."""

from __future__ import annotations

import gc
import random
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_padfix.core.choices import Choice, announce
from llama_padfix.core.errors import PadfixError
from llama_padfix.training.memory.estimate import ALLOCATOR

_SAID = (
    "out of memory",  # CUDA, ROCm, XPU and MPS
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # what cuBLAS says when there is no room for its workspace
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
_SAVE_MORE = (
    "What else saves memory: gradient_checkpointing=True, shorter rows (max_length), a base model in 4 bits "
    f'(load(..., quantization="nf4", lora=True)), optim="adamw_8bit", and {ALLOCATOR}.'
)


def train_with_backoff(trainer: Any, **train_arguments: Any) -> Any:
    """Run `trainer.train(**train_arguments)`; where memory runs out, go on with a smaller batch from that update.

    The batch is halved (an odd one goes to its next smaller divisor) and the accumulation grows by the same factor,
    so that each update sees the rows that it would have seen, and there are as many updates: unlike
    `auto_find_batch_size`, which starts again with 12 rows an update where 32 were asked for. The update that failed
    is made anew: weights, optimiser and schedule are those of the last finished update (written to a temporary folder
    in `output_dir`, and read back), and the random states those of the update's beginning. The result equals a run
    that had the small batch from the start: bit for bit where memory ran out in the first update, else up to the
    order of sums, as the updates before were summed in larger parts (before transformers 4.46, whose loss was the mean
    of each batch, those updates weigh their rows otherwise). Callbacks see `on_train_begin` again.

    Afterwards `trainer.args` holds the batch that fitted; each change is said. Returns what the last `train` did:
    its `train_loss` is of the updates since the last change. Raises `PadfixError` when one row is too much, when
    memory runs out elsewhere (in an evaluation, or the optimiser's update, whose weights are then half changed), with
    several processes or DeepSpeed or FSDP, and where a smaller batch would change the rows of an update; the
    arguments are then what they were.
    """
    args = trainer.args
    if getattr(args, "auto_find_batch_size", False):
        raise PadfixError(
            "auto_find_batch_size=True catches the error first, and changes the rows an update. "
            "Leave it out: TrainingArguments(auto_find_batch_size=False)"
        )
    if train_arguments.get("resume_from_checkpoint") and args.ignore_data_skip:
        raise PadfixError(
            "With ignore_data_skip=True nobody knows which rows an update of a resumed run has seen. "
            "Resume with ignore_data_skip=False"
        )
    before = _read_batch(trainer)
    recorder = _make_recorder()
    trainer.add_callback(recorder)
    try:
        with tempfile.TemporaryDirectory(prefix="backoff-", dir=_output_folder(args)) as folder:
            return _train_until_it_fits(trainer, recorder, train_arguments, Path(folder))
    except BaseException:  # an interruption too leaves the arguments as they were
        _write_batch(trainer, *before)
        raise
    finally:
        trainer.remove_callback(recorder)


def _train_until_it_fits(trainer: Any, recorder: Any, arguments: dict[str, Any], folder: Path) -> Any:
    resuming = False
    while True:
        dataloaders = _list_dataloaders(trainer)
        failure: str | None = None
        try:
            with _exact_resume(trainer.args) if resuming else _nothing():
                return trainer.train(**arguments)
        except Exception as error:  # what ran out may be the cause of an error of any class
            if not _is_out_of_memory(error):
                raise
            _require_training_batch(error)
            failure = str(error).splitlines()[0] if str(error) else type(error).__name__
        # Outside of the except block: the error's traceback held the tensors of the step.
        batch, accumulation = _choose_smaller(trainer, recorder)
        _free(trainer, dataloaders)
        _write_batch(trainer, batch, accumulation)
        arguments = {name: value for name, value in arguments.items() if name != "resume_from_checkpoint"}
        step = int(trainer.state.global_step)
        if step:
            _save(trainer, recorder, folder / f"update-{step}-batch-{batch}")
            arguments["resume_from_checkpoint"] = str(folder / f"update-{step}-batch-{batch}")
        recorder.replay(step)
        resuming = True
        announce(
            [
                Choice(
                    "batch",
                    f"{batch} x {accumulation} accumulated, from update {step + 1} on",
                    f"{batch * accumulation} rows an update as before; {failure} Advised: {ALLOCATOR}",
                    "warning",
                )
            ]
        )


@dataclass(frozen=True)
class _Beginning:
    """What a run looks like at its beginning: it must be the same with a smaller batch."""

    updates: int
    batches: int | None
    batch: int
    accumulation: int


def _make_recorder() -> Any:
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        """The random states at the beginning of the epoch and of the update, and a later run put back to them."""

        def __init__(self) -> None:
            self.beginning: _Beginning | None = None
            self.tokens_seen: Any = 0
            self.epochs = 0
            self._of_epoch: Any = None
            self._of_update: Any = None
            self._replayed_epoch: Any = None
            self._replayed_update: Any = None

        def replay(self, step: int) -> None:
            self.epochs = 0
            self._replayed_epoch = self._of_epoch
            # The first update's own state follows from the epoch's; it may depend on how rows are fetched.
            self._replayed_update = self._of_update if step else None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            now = _describe_beginning(args, state, kwargs.get("train_dataloader"))
            if self.beginning is None:
                self.beginning = now
            else:
                _require_same_updates(self.beginning, now, args)

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.epochs += 1
            if self._replayed_epoch is not None:
                _write_random_states(self._replayed_epoch)
                self._replayed_epoch = None
            self._of_epoch = _read_random_states()

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self._replayed_update is not None:
                _write_random_states(self._replayed_update)
                self._replayed_update = None
            self._of_update = _read_random_states()
            self.tokens_seen = getattr(state, "num_input_tokens_seen", 0)

    return Recorder()


def _describe_beginning(args: Any, state: Any, dataloader: Any) -> _Beginning:
    try:
        batches: int | None = len(dataloader)
    except TypeError:  # a stream
        batches = None
    return _Beginning(
        int(state.max_steps), batches, int(args.per_device_train_batch_size), int(args.gradient_accumulation_steps)
    )


def _require_same_updates(first: _Beginning, now: _Beginning, args: Any) -> None:
    """Raise where the smaller batch would not make the same updates of the same rows."""
    factor = first.batch // now.batch
    wrong = None
    if first.batches is not None and now.batches is not None:
        if first.batches > 1 and now.batches == first.batches and factor > 1:
            wrong = "the trainer's dataloader does not take its batch from per_device_train_batch_size"
        elif args.dataloader_drop_last and now.batches != first.batches * factor:
            wrong = "dataloader_drop_last=True drops other rows. Pass dataloader_drop_last=False: it"
        elif _drops_updates() and (now.batches % now.accumulation or first.batches % first.accumulation):
            wrong = "this transformers carries what is left of an epoch into the next. A newer one, from 4.55 on,"
    if wrong is None and now.updates != first.updates:
        wrong = f"the run would make {now.updates} updates, and not {first.updates}"
    if wrong:
        raise PadfixError(
            f"A batch of {now.batch} instead of {first.batch} would change the rows of an update: {wrong}. "
            f"Start anew with per_device_train_batch_size={now.batch}, gradient_accumulation_steps={now.accumulation}"
        )


def _drops_updates() -> bool:
    from transformers import Trainer

    # From the release on that has it, the last update of an epoch takes what is left.
    return not hasattr(Trainer, "set_initial_training_values")


def _choose_smaller(trainer: Any, recorder: Any) -> tuple[int, int]:
    """The next batch and accumulation; raises where there is none, or where the run cannot be taken up again."""
    args = trainer.args
    batch, accumulation = _read_batch(trainer)
    smaller = max((size for size in range(1, batch // 2 + 1) if batch % size == 0), default=0)
    if not smaller:
        raise PadfixError(f"Memory runs out with a single row a batch, and there is no smaller one. {_SAVE_MORE}")
    grown = accumulation * (batch // smaller)
    flags = f"per_device_train_batch_size={smaller}, gradient_accumulation_steps={grown}"
    if args.world_size > 1 or trainer.is_deepspeed_enabled or getattr(trainer, "is_fsdp_enabled", False):
        raise PadfixError(
            f"Memory ran out in one of {args.world_size} processes, and the others wait for it, so the run cannot go "
            f"on. Start it again, from its last checkpoint, with {flags}. The rows an update stay the same."
        )
    if recorder.beginning is not None and recorder.beginning.batches is None and recorder.epochs > 1:
        raise PadfixError(
            "Memory ran out in a later pass over a stream, whose place cannot be found again. Start anew with "
            f"{flags}. The rows an update stay the same."
        )
    return smaller, grown


def _require_training_batch(error: BaseException) -> None:
    names = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
    if "training_step" in names:
        return
    if names & {"evaluate", "evaluation_loop", "prediction_step", "predict"}:
        where, mend = "in an evaluation", "Lower per_device_eval_batch_size, or set eval_accumulation_steps=1."
    elif names & {"step", "clip_grad_norm_"}:
        where, mend = "in the optimiser's update, whose weights may be half changed", _SAVE_MORE
    else:
        where, mend = "outside of a training batch", _SAVE_MORE
    raise PadfixError(f"Memory ran out {where}: a smaller training batch does not help there. {mend}") from error


def _is_out_of_memory(error: BaseException | None) -> bool:
    import torch

    kind: Any = getattr(torch, "OutOfMemoryError", None) or torch.cuda.OutOfMemoryError
    while error is not None:
        if isinstance(error, kind) or (isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)):
            return True
        error = error.__cause__
    return False


def _read_batch(trainer: Any) -> tuple[int, int]:
    return int(trainer.args.per_device_train_batch_size), int(trainer.args.gradient_accumulation_steps)


def _write_batch(trainer: Any, batch: int, accumulation: int) -> None:
    import transformers

    trainer.args.per_device_train_batch_size = batch
    trainer.args.gradient_accumulation_steps = accumulation
    trainer._train_batch_size = trainer.args.train_batch_size  # transformers 5 reads args only when it is built
    if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (4, 46):
        trainer.accelerator.gradient_accumulation_steps = accumulation  # where accelerate scales the loss


def _free(trainer: Any, dataloaders: list[Any]) -> None:
    """Give back what the broken step held."""
    import torch

    state = trainer.accelerator.gradient_state
    state.dataloader_references = dataloaders
    if not isinstance(getattr(type(state), "active_dataloader", None), property):  # accelerate before 1.0
        state.active_dataloader = dataloaders[-1]
    hook = getattr(trainer, "neftune_hook_handle", None)
    if hook is not None:
        hook.remove()  # train() sets it again, and two would add the noise twice
    trainer.model.zero_grad(set_to_none=True)
    gc.collect()
    for name in ("cuda", "xpu", "npu", "mps"):
        backend: Any = getattr(torch, name, None)
        available = torch.backends.mps.is_available if name == "mps" else getattr(backend, "is_available", None)
        if available is not None and available():
            backend.empty_cache()


def _list_dataloaders(trainer: Any) -> list[Any]:
    return list(trainer.accelerator.gradient_state.dataloader_references)


def _save(trainer: Any, recorder: Any, folder: Path) -> None:
    """Write what `train(resume_from_checkpoint=...)` reads, as of the last finished update.

    Without the random states, which the recorder puts back. The optimiser's state is then dropped from memory, so
    that it is not held twice while it is read.
    """
    trainer.save_model(str(folder), _internal_call=True)
    trainer._save_optimizer_and_scheduler(str(folder))
    trainer.state.num_input_tokens_seen = recorder.tokens_seen
    trainer.state.train_batch_size = trainer.args.train_batch_size
    trainer.state.save_to_json(str(folder / "trainer_state.json"))
    trainer.optimizer.state.clear()


@contextmanager
def _exact_resume(args: Any) -> Iterator[None]:
    """Keep the rows' order, and the callbacks, which are alive and need no restoring."""
    wanted = {"ignore_data_skip": False, "restore_callback_states_from_checkpoint": False}
    before = {name: getattr(args, name) for name in wanted if hasattr(args, name)}
    for name in before:
        setattr(args, name, wanted[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(args, name, value)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _output_folder(args: Any) -> str | None:
    if not args.output_dir:
        return None
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    return str(args.output_dir)


def _read_random_states() -> dict[str, Any]:
    import numpy
    import torch

    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def _write_random_states(states: dict[str, Any]) -> None:
    import numpy
    import torch

    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])

"""Training that goes on with a smaller batch when memory runs out, and with the same rows in every update."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from llama_padfix.core.choices import Choice, announce
from llama_padfix.core.compat import averages_by_tokens
from llama_padfix.core.errors import PadfixError
from llama_padfix.hardware.random_states import remember_random_states
from llama_padfix.training.memory.estimate import ALLOCATOR
from llama_padfix.training.rollouts import regroup, require_regroupable

if TYPE_CHECKING:
    from collections.abc import Sized

    from transformers import Trainer, TrainerState, TrainingArguments
    from transformers.trainer_utils import TrainOutput

# Parts of the messages of errors that mean out of memory.
_MESSAGES = (
    "out of memory",  # CUDA, ROCm, XPU and MPS
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # cuBLAS without room for its workspace
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
_SAVE_MORE = (
    "What else saves memory: gradient_checkpointing=True, shorter rows (max_length), a base model in 4 bits "
    f'(load(..., quantization="nf4", lora=True)), optim="adamw_8bit", and {ALLOCATOR}.'
)
# The rows keep their order; the callbacks are alive and need no restoring.
_EXACT_RESUME = {
    "ignore_data_skip": False,
    "restore_callback_states_from_checkpoint": False,
    "eval_on_start": False,  # that was done
}


def train_with_backoff(trainer: Trainer, **train_arguments: object) -> TrainOutput:
    """Run `trainer.train(**train_arguments)`; where memory runs out, go on with a smaller batch from that update.

    The batch is halved (an odd one goes to its next smaller divisor) and the accumulation grows by the same factor,
    so that each update sees the rows that it would have seen, and there are as many updates: unlike
    `auto_find_batch_size`, which starts again with 12 rows an update where 32 were asked for.

    The update that failed is made anew: weights, optimizer and schedule are those of the last finished update (written
    to a temporary folder in `output_dir`, and read back), and the random states those of the update's beginning. The
    result equals a run that had the small batch from the start: bit for bit where memory ran out in the first update,
    else up to the order of sums, as the updates before were summed in larger parts (before transformers 4.46, whose
    loss was the mean of each batch, those updates weigh their rows otherwise). Callbacks get `on_train_begin` again.

    Args:
        trainer: Its `args` have the batch that fitted afterwards; each change is logged as a warning.
        train_arguments: Those of `trainer.train`.

    Returns:
        The output of the last `train`; its `train_loss` is that of the updates since the last change.

    Raises:
        PadfixError: One row is too much; memory runs out elsewhere (in an evaluation, or in the optimizer's update,
            whose weights are then half changed); there are several processes, DeepSpeed or FSDP; or a smaller batch
            would change the rows of an update, as those that GRPO generates for several. The arguments are as before.
    """
    if not hasattr(trainer, "args"):
        raise PadfixError(
            f"Got a {type(trainer).__name__} where a Trainer is needed. "
            "Build one: train_with_backoff(trainer), trainer = build_trainer(model, tokenizer, dataset)"
        )
    args = trainer.args
    if getattr(args, "auto_find_batch_size", False):
        raise PadfixError(
            "auto_find_batch_size=True catches the error first, and changes the rows an update. "
            "Leave it out: TrainingArguments(auto_find_batch_size=False)"
        )
    if train_arguments.get("resume_from_checkpoint") and args.ignore_data_skip:
        raise PadfixError(
            "With ignore_data_skip=True it is not known which rows an update of a resumed run has seen. "
            "Resume with ignore_data_skip=False"
        )
    require_regroupable(trainer)
    before = _read_batch(args)
    recorder = _make_recorder()
    trainer.add_callback(recorder)
    parent = Path(args.output_dir) if args.output_dir else None
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="backoff-", dir=parent) as folder:
            return _train_until_it_fits(trainer, recorder, train_arguments, Path(folder))
    except BaseException:  # an interruption too leaves the arguments as they were
        _write_batch(trainer, *before)
        raise
    finally:
        trainer.remove_callback(recorder)


def _train_until_it_fits(
    trainer: Trainer, recorder: _Recorder, arguments: dict[str, object], folder: Path
) -> TrainOutput:
    settings: Mapping[str, bool] = {}
    while True:
        dataloaders = list(trainer.accelerator.gradient_state.dataloader_references)
        try:
            with _changed(trainer.args, settings):
                return trainer.train(**arguments)
        except Exception as error:  # an error of any class may be caused by one of memory
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
            arguments["resume_from_checkpoint"] = str(folder / f"update-{step}-batch-{batch}")
            _save(trainer, recorder, folder / f"update-{step}-batch-{batch}")
        recorder.replay(step)
        settings = _EXACT_RESUME
        taken = f"{batch} x {accumulation} accumulated, from update {step + 1} on"
        reason = f"{batch * accumulation} rows an update as before; {failure} Advised: {ALLOCATOR}"
        announce([Choice("batch", taken, reason, "warning")])


@dataclass(frozen=True)
class _Beginning:
    """The numbers at the beginning of a run, of which updates and batches must fit those of a smaller batch."""

    updates: int
    batches: int | None
    batch: int
    accumulation: int


class _Recorder:
    """The random states at the beginning of the epoch and of the update, put back in a later run."""

    def __init__(self) -> None:
        self.beginning: _Beginning | None = None
        self.tokens_seen: object = 0
        self.epochs = 0
        # By moment ("epoch", "update"), what puts back its states: of the last such moment, and of the next to replay.
        self._last: dict[str, Callable[[], None]] = {}
        self._replayed: dict[str, Callable[[], None]] = {}

    def replay(self, step: int) -> None:
        """Return to the states of now in the next run, which begins at the update `step`."""
        self.epochs = 0
        # The first update's own state follows from the epoch's; it may depend on how rows are fetched.
        self._replayed = {moment: restore for moment, restore in self._last.items() if step or moment == "epoch"}

    def _begin(self, moment: str) -> None:
        if moment in self._replayed:
            self._replayed.pop(moment)()
        self._last[moment] = remember_random_states()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: object, **kwargs: object) -> None:
        try:
            batches = len(cast("Sized", kwargs.get("train_dataloader")))
        except TypeError:  # a stream
            batches = None
        now = _Beginning(int(state.max_steps), batches, *_read_batch(args))
        if self.beginning is not None:
            _require_same_updates(self.beginning, now, args)
        self.beginning = self.beginning or now

    def on_epoch_begin(self, args: object, state: object, control: object, **kwargs: object) -> None:
        self.epochs += 1
        self._begin("epoch")

    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        self._last["update"] = remember_random_states()  # of a next update that ends while its rows are collated

    def on_step_begin(self, args: object, state: object, control: object, **kwargs: object) -> None:
        self._begin("update")
        self.tokens_seen = getattr(state, "num_input_tokens_seen", 0)


def _make_recorder() -> _Recorder:
    from transformers import TrainerCallback

    recorder: _Recorder = type("Recorder", (_Recorder, TrainerCallback), {})()
    return recorder


def _require_same_updates(first: _Beginning, now: _Beginning, args: TrainingArguments) -> None:
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


def _choose_smaller(trainer: Trainer, recorder: _Recorder) -> tuple[int, int]:
    """Return the next batch and accumulation; raise where there is none, and where the run cannot be resumed."""
    args = trainer.args
    batch, accumulation = _read_batch(args)
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
    generates = "generate" in names
    if ("training_step" in names or "get_batch_samples" in names) and not generates:
        return  # a smaller one is collated with less memory, too
    if generates:
        where = "while completions were generated"
        fix = "Lower max_completion_length, or generation_batch_size to a smaller multiple of num_generations."
    elif names & {"evaluate", "evaluation_loop", "prediction_step", "predict"}:
        where, fix = "in an evaluation", "Lower per_device_eval_batch_size, or set eval_accumulation_steps=1."
    elif names & {"step", "clip_grad_norm_"}:
        where, fix = "in the optimizer's update, whose weights may be half changed", _SAVE_MORE
    else:
        where, fix = "outside of a training batch", _SAVE_MORE
    raise PadfixError(f"Memory ran out {where}: a smaller training batch does not help there. {fix}") from error


def _is_out_of_memory(error: BaseException | None) -> bool:
    import torch

    kind = getattr(torch, "OutOfMemoryError", None) or torch.cuda.OutOfMemoryError
    while error is not None:
        if isinstance(error, (kind, MemoryError)):  # numpy's, while rows are collated, is one of Python
            return True
        if isinstance(error, RuntimeError) and any(part in str(error) for part in _MESSAGES):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def _read_batch(args: TrainingArguments) -> tuple[int, int]:
    return int(args.per_device_train_batch_size), int(args.gradient_accumulation_steps)


def _write_batch(trainer: Trainer, batch: int, accumulation: int) -> None:
    growth = accumulation / trainer.args.gradient_accumulation_steps
    if growth != 1:
        regroup(trainer, growth)
    trainer.args.per_device_train_batch_size = batch
    trainer.args.gradient_accumulation_steps = accumulation
    trainer._train_batch_size = trainer.args.train_batch_size  # transformers 5 reads args only when it is built
    if not averages_by_tokens():
        trainer.accelerator.gradient_accumulation_steps = accumulation  # accelerate scales the loss there


def _free(trainer: Trainer, dataloaders: list[object]) -> None:
    """Give back what the broken step held."""
    from accelerate.utils import release_memory

    state = trainer.accelerator.gradient_state
    state.dataloader_references = dataloaders
    if not isinstance(getattr(type(state), "active_dataloader", None), property):  # accelerate before 1.0
        state.active_dataloader = dataloaders[-1]
    hook = getattr(trainer, "neftune_hook_handle", None)
    if hook is not None:
        hook.remove()  # train() sets it again, and two would add the noise twice
    trainer.model.zero_grad(set_to_none=True)
    release_memory()


def _save(trainer: Trainer, recorder: _Recorder, folder: Path) -> None:
    """Write what `train(resume_from_checkpoint=...)` reads, as of the last finished update.

    Without the random states, which the recorder puts back. The optimizer's state is then dropped from memory, so
    that it is not held twice while it is read.
    """
    try:
        trainer.save_model(str(folder), _internal_call=True)  # which pushes nothing to the hub
        trainer._save_optimizer_and_scheduler(str(folder))
    except Exception as error:  # of safetensors and torch alike, on a full disk
        raise PadfixError(
            f"Memory ran out, and to go on the last update is written to {str(folder.parent)!r}, which failed "
            f"({type(error).__name__}: {error}). Make room for one checkpoint there, or set another output_dir="
        ) from error
    trainer.state.num_input_tokens_seen = recorder.tokens_seen
    trainer.state.train_batch_size = trainer.args.train_batch_size
    trainer.state.save_to_json(str(folder / "trainer_state.json"))
    trainer.optimizer.state.clear()


@contextmanager
def _changed(args: TrainingArguments, settings: Mapping[str, bool]) -> Iterator[None]:
    """Change those settings that this version has, and put them back at the end."""
    before = {name: getattr(args, name) for name in settings if hasattr(args, name)}
    for name in before:
        setattr(args, name, settings[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(args, name, value)

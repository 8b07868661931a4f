"""Every public name and the module that defines it, one a line; `__init__.py` reads this list too."""

from llama_padfix.core.choices import Choice as Choice
from llama_padfix.core.errors import IGNORE_INDEX as IGNORE_INDEX
from llama_padfix.core.errors import PadfixError as PadfixError
from llama_padfix.doctor.diagnose import diagnose as diagnose
from llama_padfix.doctor.findings import Change as Change
from llama_padfix.doctor.findings import Finding as Finding
from llama_padfix.doctor.findings import Plan as Plan
from llama_padfix.doctor.findings import Report as Report
from llama_padfix.doctor.patch import padding_side as padding_side
from llama_padfix.doctor.patch import patch_tokenizer as patch_tokenizer
from llama_padfix.doctor.patch import plan_patch as plan_patch
from llama_padfix.doctor.repair_folder import heal_folder as heal_folder
from llama_padfix.encoding.collator import PadCollator as PadCollator
from llama_padfix.encoding.counts import CountedRow as CountedRow
from llama_padfix.encoding.counts import Counts as Counts
from llama_padfix.encoding.dataset.encode import encode_dataset as encode_dataset
from llama_padfix.encoding.encoder import ChatEncoder as ChatEncoder
from llama_padfix.encoding.masking.completion_collator import (
    DataCollatorForCompletionOnlyLM as DataCollatorForCompletionOnlyLM,
)
from llama_padfix.encoding.masking.labels import find_markers as find_markers
from llama_padfix.encoding.masking.labels import mask_labels as mask_labels
from llama_padfix.encoding.masking.turns_in_ids import TurnMarkers as TurnMarkers
from llama_padfix.encoding.pairs.collator import PairCollator as PairCollator
from llama_padfix.encoding.pairs.encoder import PairEncoder as PairEncoder
from llama_padfix.encoding.record import Encoding as Encoding
from llama_padfix.encoding.record import read_encoding as read_encoding
from llama_padfix.encoding.record import write_encoding as write_encoding
from llama_padfix.encoding.rollouts.joined import Rollout as Rollout
from llama_padfix.encoding.rollouts.joined import join_rollout as join_rollout
from llama_padfix.encoding.rollouts.retokenized import Retokenized as Retokenized
from llama_padfix.encoding.rollouts.retokenized import find_retokenized as find_retokenized
from llama_padfix.encoding.row_formats import Conversation as Conversation
from llama_padfix.encoding.row_formats import read_row as read_row
from llama_padfix.encoding.row_formats import to_messages as to_messages
from llama_padfix.hardware.attention import choose_attention as choose_attention
from llama_padfix.hardware.optimizers import choose_optimizer as choose_optimizer
from llama_padfix.hardware.precision import Precision as Precision
from llama_padfix.hardware.precision import choose_precision as choose_precision
from llama_padfix.serving.check_serving import check_serving as check_serving
from llama_padfix.serving.export.export_for_serving import export_for_serving as export_for_serving
from llama_padfix.serving.generation.check_stops import check_stops as check_stops
from llama_padfix.serving.generation.stop_report import StopReport as StopReport
from llama_padfix.serving.report import ServingReport as ServingReport
from llama_padfix.tokens.bos import dedupe_bos as dedupe_bos
from llama_padfix.training.adapters.added_tokens import add_tokens as add_tokens
from llama_padfix.training.adapters.lora import find_lora_targets as find_lora_targets
from llama_padfix.training.adapters.lora import keep_trainable_float32 as keep_trainable_float32
from llama_padfix.training.adapters.row_training import complete_head as complete_head
from llama_padfix.training.adapters.row_training import train_rows as train_rows
from llama_padfix.training.adapters.untrained_rows import find_untrained as find_untrained
from llama_padfix.training.adapters.untrained_rows import mean_init_untrained as mean_init_untrained
from llama_padfix.training.guard.callback import TrainingGuard as TrainingGuard
from llama_padfix.training.guard.evidence import load_batch as load_batch
from llama_padfix.training.guard.incident import GuardError as GuardError
from llama_padfix.training.guard.incident import Incident as Incident
from llama_padfix.training.loading.load import load as load
from llama_padfix.training.loading.plan import LoadPlan as LoadPlan
from llama_padfix.training.loading.plan import plan_load as plan_load
from llama_padfix.training.memory.estimate import MemoryAdvice as MemoryAdvice
from llama_padfix.training.memory.estimate import MemoryEstimate as MemoryEstimate
from llama_padfix.training.memory.estimate import estimate_memory as estimate_memory
from llama_padfix.training.oom_backoff import train_with_backoff as train_with_backoff
from llama_padfix.training.prepare import Prepared as Prepared
from llama_padfix.training.prepare import build_trainer as build_trainer
from llama_padfix.training.prepare import prepare as prepare
from llama_padfix.view.mask_view import MaskView as MaskView
from llama_padfix.view.mask_view import view_mask as view_mask

__all__: list[str]
__version__: str

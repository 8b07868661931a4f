"""What was observed of a model. `facts` re-exports `ModelFacts`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ZERO_NORM = 1e-4
"""A row below this part of an ordinary row's length is zero; base models of Llama 3 hold rows of 1e-23."""

_TWIN = 0.001  # of an ordinary row's distance to the mean
_MEAN_LIKE = 0.05  # `resize_token_embeddings` draws new rows from a narrow range around the mean


@dataclass(frozen=True)
class RowStatistics:
    """A row of the embedding in ratios to ordinary rows: 1 is ordinary, 0 is nothing."""

    norm: float
    """Its length, in units of the median length of ordinary rows."""

    to_mean: float
    """Its distance to the mean of ordinary rows, in units of their median distance."""

    to_twin: float
    """Its distance to the nearest row of another control token, in the same units."""

    @property
    def is_zero(self) -> bool:
        """The row was never trained: it has almost no length."""
        return self.norm < ZERO_NORM

    @property
    def is_mean_like(self) -> bool:
        """The row is the mean, as `resize_token_embeddings` and `mean_init_untrained` set it."""
        return self.to_mean < _MEAN_LIKE

    @property
    def is_twin(self) -> bool:
        """The row was never trained: it equals that of another token, and neither was set to the mean."""
        return self.to_twin < _TWIN and self.to_mean > _MEAN_LIKE


@dataclass(frozen=True)
class ModelFacts:
    """The settings of a model that must agree with its tokenizer, as they are held."""

    embedding_rows: int | None = None
    """Rows of the input embedding, None where it cannot be read."""

    config_pad_token_id: int | None = None
    """Of `config`."""

    config_eos_token_id: int | tuple[int, ...] | None = None
    """Of `config`: an id, or a tuple in the order of the list."""

    has_generation_config: bool = False
    """False for a model that has none."""

    generation_pad_token_id: int | None = None
    """Of `generation_config`."""

    generation_eos_token_id: int | tuple[int, ...] | None = None
    """Of `generation_config`: an id, or a tuple."""

    generation_error: str | None = None
    """What saving the generation config would raise, None where it can be saved."""

    original_rows: int | None = None
    """The vocabulary size that the checkpoint was saved with, None where it is not known."""

    original_stops: tuple[int, ...] = ()
    """The ids at which the checkpoint itself stops, empty where they are not known."""

    rows: Mapping[int, RowStatistics] = field(default_factory=dict, repr=False)
    """Statistics of the embedding rows of control tokens, by id."""

    trained_rows: tuple[int, ...] | None = None
    """Rows of the embedding that get gradients; None for all."""

    trained_output_rows: tuple[int, ...] | None = None
    """Rows of the output head that get gradients; None for all."""

    declared_tied: bool = False
    """The config's `tie_word_embeddings`."""

    is_tied: bool = False
    """Embedding and output head are one matrix."""

    pools_one_token: bool = False
    """The model scores one token of a row: a reward model or a classifier of texts."""

    is_peft: bool = False
    """The model carries a PEFT adapter."""

    adapters_deep: int = 0
    """How many PEFT models are wrapped around one another; 1 for an adapter."""

    is_encoder_decoder: bool = False
    """The model reads its prompt with an encoder."""

    use_cache: bool = False
    """The model keeps keys and values unless its caller says otherwise."""

    attention: str | None = None
    """The attention implementation."""

    attention_installed: bool | None = None
    """Its package is installed; None for an attention that needs none."""

    floating_dtypes: tuple[str, ...] = ()
    """The dtypes of floating parameters, as torch's names."""


@dataclass(frozen=True)
class OptimizerFacts:
    """Which parameters of a model an optimizer updates, in tensors."""

    trainable: int
    """Those that require a gradient."""

    missing: int = 0
    """Those of them that the optimizer does not hold."""

    examples: tuple[str, ...] = ()
    """The names of the first of these."""

    foreign: int = 0
    """What the optimizer holds and the model does not train: frozen parameters, or those of another model."""

"""A chat model of some 100,000 weights, its tokenizer and conversations, made on the spot: what the pages run on.

It needs no network and none of the packages of the extra `demo`. The control tokens, the automatic BOS, the missing
pad token and the shape of the chat template are those of Llama 3.1; the vocabulary is learned from the conversations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_padfix import to_messages
from llama_padfix.demo.run import load_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

_WORDS = 1024  # the ids of text; the control tokens follow
_CONTROL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def make_tiny_chat(
    *, hidden_size: int = 64, seed: int = 0
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, Dataset]:
    """Return a random model, its tokenizer without a pad token, and 200 conversations in the column `messages`.

    Args:
        hidden_size: The width of the model.
        seed: The seed of the weights; torch's own random state stays as it is.
    """
    import datasets
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    rows = load_rows(("chats.jsonl",))
    tokenizer = _train_tokenizer([message["content"] for row in rows for message in to_messages(row)])
    bos, end, eot = (tokenizer.convert_tokens_to_ids(_CONTROL[place]) for place in (0, 1, 5))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=[end, eot],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=bos, eos_token_id=[end, eot])
    return model, tokenizer, datasets.Dataset.from_list(rows)


def _train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer learned from the texts; encoding adds BOS, as in Llama 3.1."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_WORDS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([*_CONTROL])
    bos = _CONTROL[0]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, backend.token_to_id(bos))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token="<|eot_id|>",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=1024,
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer

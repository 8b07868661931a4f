"""SRV003: an engine does not stop at a token with which trained answers end.

Each engine takes its stop ids from other files: transformers from generation_config.json, GGUF files from the
tokenizer's EOS alone, vLLM from both. Where the token that ends the trained turns is in none of them, the model writes
it and is not stopped: the answer goes on to the limit of tokens.
"""

from llama_padfix.doctor.findings import Check

CHECK = Check(
    code="SRV003",
    name="stop-missing",
    severity="error",
    needs=("folder",),
    doc=__doc__,
    bad="rows end with <|eot_id|>; eos_token is <|end_of_text|>",
    good="tokenizer.eos_token = '<|eot_id|>'; model.generation_config.eos_token_id = [128001, 128008, 128009]",
)

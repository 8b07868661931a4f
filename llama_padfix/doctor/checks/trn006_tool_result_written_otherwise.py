"""TRN006: behind a tool call the trainer appends other text than the chat template writes.

GRPO with `tools` or an environment appends a tool's result to the ids that the model sampled. TRL 1.16 renders an
example and cuts it behind the tokenizer's last EOS. Where the EOS ends no turn (a base model of Qwen 2.5), the line
break behind a turn is missing: `prepare(tokenizer, model)` sets the EOS. Under GLM 4.5 `<|observation|>`, with which
the model has ended its call, is repeated. Under Gemma 4, whose results stand inside the model's turn, the example's
call is appended too where the EOS is `<turn|>`. The model then goes on from a text that it never meets at inference.
Run the tools in a `rollout_func`, and join its turns with `join_rollout` (docs/rollouts.md).
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    if facts.trainer is None or facts.trainer.tool_suffix is None:
        return
    appended, expected = facts.trainer.tool_suffix
    yield CHECK.found(
        f"Behind a tool call {facts.trainer.class_name} appends {appended!r}, and the chat template writes "
        f"{expected!r}. Run the tools in a rollout_func, and join its turns: join_rollout(tokenizer, prompt, turns)"
    )


CHECK = Check(
    code="TRN006",
    name="tool-result-written-otherwise",
    severity="warning",
    needs=("trainer",),
    doc=__doc__,
    bad="GRPOTrainer(..., tools=[search])  # GLM 4.5: <|observation|> ends the call and begins the result",
    good="GRPOTrainer(..., rollout_func=play)  # whose turns join_rollout joins",
    find=_find,
)

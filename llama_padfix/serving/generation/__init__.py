"""'Will it stop?' answered by generating: `check_stops` is the call.

`stop_prompts` makes prompts of rows, `greedy` generates one answer and watches the ends, `read_answer` says where it
ended, `stop_report` is the report, `saved_model` loads what a run saved as it is.
"""

"""The pages of the codes that a comparison gives, each a `Check` without a function: `check_serving` finds them.

One file a code: `srv001_date_differs_in_serving`, `srv002_template_not_read`, `srv003_stop_missing`,
`srv004_stop_inside_answer`, `srv005_arguments_not_passed`, `srv006_values_written_otherwise`,
`srv007_template_does_not_run`, `srv008_bos_count`, `srv009_messages_rewritten`, `srv010_encoded_otherwise`,
`srv011_white_space`, `srv012_prompt_is_not_the_trained_one`, `srv013_unexplained_difference`.
"""

"""Stops a run at a bad step, keeps the evidence, and names the most likely cause.

Reading order: `callback` (the events of a Trainer), `resumed` (the weights of a resumed run), `guard` (any loop),
`hooks`, `passes` and `incident` (the records); `rules` and `loss_spikes` find faults; `root_cause` explains one, with
`health`, `batch_report`, `causes` and `evidence`.
Start: `guard.Guard`.
"""

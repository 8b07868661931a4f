"""Stops a run at a bad step, keeps the evidence, and names the most likely cause.

Reading order: `callback` (the events of a Trainer), `guard` (any loop), `hooks` and `incident` (the records);
`rules` and `loss_spikes` find faults; `analysis` leads from a fault to its evidence: `health`, `batch_report`,
`root_cause`, `causes`, `evidence`.
Start: `guard.Guard`.
"""

"""Stops a run at a bad step, keeps the evidence, and names the most likely cause.

Reading order: `callback`, `guard`, `hooks`, `loss_spikes`, `health`, `incident`, `root_cause`, `causes`, `evidence`.
Start: `guard.Guard`.
"""

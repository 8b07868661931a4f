"""Around the Trainer: loading, adapters, memory, the guard, and `prepare`, the one composition.

`prepare` composes the rooms below, `trainer` chooses keywords for the installed versions, `tasks` knows what TRL's
trainer of each task (SFT, DPO, KTO, reward, ORPO) takes, `oom_backoff` goes on with a
smaller batch, and `rollouts` says where that leaves generated rows as they are. Sub-rooms: `loading/`, `adapters/`,
`memory/`, `guard/`. Start: `prepare.prepare`.
"""

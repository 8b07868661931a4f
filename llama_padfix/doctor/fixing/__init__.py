"""What `Report.fix` does to live objects: `settings` writes changes, `copies` names those of a trainer's own, `live`
applies them until none are left, looks again, and takes back what lets another check fail. `repair` is the loop of all
repairs. Start: `live.fix_live`.
"""

"""What `Report.fix` does to live objects, and `heal_folder` to a copy of a folder.

`settings` writes changes, `copies` names those of a trainer's own, `live` applies them until none are left, looks
again, and takes back what lets another check fail. `folder` writes the copy; `repair` is the loop of all repairs.
Start: `live.fix_live`.
"""

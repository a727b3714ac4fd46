"""The steps of a run on its directory: what the commands do, one after the other or one by one.

Each step reads what earlier steps stored and stores its own result, so a run that was stopped goes
on where it was.
"""

"""Runs: the steps of a study on a run directory, together or one at a time.

Each step reads what earlier steps stored and stores its own result, so a run that was stopped goes
on where it was.
"""

"""Exit codes of the launch scripts that other programs act upon."""

START_AGAIN = 75
"""Interrupted, with a checkpoint: the same command goes on. EX_TEMPFAIL of sysexits.h."""

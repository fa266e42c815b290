"""Exit codes of the launch scripts that other programs react to."""

START_AGAIN = 75
"""Interrupted after a checkpoint: start the same command again to continue. EX_TEMPFAIL of sysexits.h."""

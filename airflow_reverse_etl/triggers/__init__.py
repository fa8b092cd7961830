"""Triggers: the waiting, outside of a worker."""

"""Sensors: wait for what somebody else runs."""

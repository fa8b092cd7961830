"""Alerts: the limits of a run, and the health that it has by them."""

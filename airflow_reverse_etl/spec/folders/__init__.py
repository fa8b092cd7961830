"""Syncs in a folder: what its defaults and environments add to them, and the order that ``after`` gives them."""

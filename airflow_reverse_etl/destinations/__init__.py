"""Destinations: the shared HTTP driver, and a small module for each type."""

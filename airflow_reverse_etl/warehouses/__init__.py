"""Warehouses that hold the models: readers that yield Arrow batches."""

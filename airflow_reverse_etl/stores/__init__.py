"""State stores: snapshots, change sets, checkpoints and history."""

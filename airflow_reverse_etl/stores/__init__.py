"""Where state is: snapshots, change sets, checkpoints, history."""

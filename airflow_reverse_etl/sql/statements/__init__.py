"""The statements that are built: the plan, field hashes, writes into a table."""

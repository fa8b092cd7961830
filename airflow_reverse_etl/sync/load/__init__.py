"""Load: from the change set to settled rows."""

"""A check's report, in each format and on each Git host."""

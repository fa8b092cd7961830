"""Reports of a check, one module for each format, and one for each Git host."""

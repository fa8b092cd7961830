"""State as Delta Lake tables under a URL, computed by DuckDB on the worker."""

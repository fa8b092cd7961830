"""SQL: the statements, and how each database writes them. Text in, text out."""

"""SQL: statements, and the forms in which each database writes them. Text in, text out."""

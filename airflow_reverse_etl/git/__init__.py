"""Git repositories: credentials, checkouts, pushes, and a watch on a path."""

"""Where rows go: the shared drivers, and a small module for each type."""

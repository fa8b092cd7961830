"""Facts about databases: one module for each, which holds one value."""

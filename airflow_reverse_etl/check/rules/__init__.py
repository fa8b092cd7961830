"""The rules of a check, by what they look at."""

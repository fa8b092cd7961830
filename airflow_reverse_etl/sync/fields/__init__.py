"""The fields of a destination's object: check of the mapping, and conversion of values."""

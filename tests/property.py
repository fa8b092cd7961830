"""How many examples a property test makes: few before a change lands, more before a release."""

import os

_TIMES = int(os.environ.get("REVERSE_ETL_EXAMPLES", "1"))


def examples(count: int) -> int:
    """Return the number of examples of a test, by the number that it makes before a change lands."""
    return count * _TIMES

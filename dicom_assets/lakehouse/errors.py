"""Errors that may be shown anywhere.

Decided here: the class whose words are all our own. Any other error may hold what it stumbled over,
a file's name or a value, and `told` leaves its words out.
"""


class PlainError(ValueError):
    """Says what is wrong with a setting or the lakehouse, and what to do; holds no patient data."""

"""Errors that a user can cause, and the exit status that each one maps to."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input or configuration: exit status 2.

    Printed as one line, `error: <where>: <what>; <remedy>`.

    Args:
        where: the config key or the path at fault.
        what: what is wrong with it.
        remedy: what to do about it.
    """

    status = 2

    def __init__(self, where: str, what: str, remedy: str):
        self.where, self.what, self.remedy = where, what, remedy
        super().__init__(f"{where}: {what}; {remedy}")


class TrainingFailed(UserError):
    """Training cannot go on (non-finite, too many bad records, storage): exit status 3."""

    status = 3


def nearest(word: str, legal: Iterable[str]) -> str:
    """Returns the remedy that names the legal word closest to `word`."""
    legal = sorted(legal)
    close = difflib.get_close_matches(word, legal, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"legal: {', '.join(legal) or 'none'}"

"""What the reading threads are at, so that a source that hangs can be named, with its record."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from facejax.data.records import Source

Now = tuple[str, Source, int, float]
"""Label of a source, the source, the record, and since when (`time.monotonic`)."""


class Reading:
    """Notes, for each thread, the record that it asked a source for last.

    A source that reads record by record is caught at the very one; one that hands a whole batch to
    a library at the batch's last.
    """

    def __init__(self):
        self._now: dict[int, Now] = {}
        self._elsewhere: list[Callable[[], Now | None]] = []

    def watch(self, ask: Callable[[], Now | None]) -> None:
        """Asks, too, what another process is reading."""
        self._elsewhere.append(ask)

    def put(self, thread: int, label: str, source: Source, index: int) -> None:
        """Notes the record that a thread is reading."""
        self._now[thread] = label, source, index, time.monotonic()

    def drop(self, thread: int) -> None:
        """Notes that it has ended."""
        self._now.pop(thread, None)

    @contextmanager
    def of(self, label: str, source: Source, indices: Sequence[int]) -> Iterator[Sequence[int]]:
        """Gives `indices` to read in their stead; each is noted as it is taken."""
        thread = threading.get_ident()

        def note(index: int) -> None:
            self.put(thread, label, source, index)

        try:
            yield _Noted(indices, note)
        finally:
            self.drop(thread)

    def describe(self) -> str:
        """The record that has been read for longest, in words; "" if none is being read."""
        elsewhere = (found for ask in self._elsewhere if (found := ask()))
        reading = sorted([*self._now.copy().values(), *elsewhere], key=lambda noted: noted[3])
        if not reading:
            return ""
        label, source, index, since = reading[0]
        waited = time.monotonic() - since
        name = _name_within(1.0, source, index)
        return f"source '{label}' has been reading record {index}{name} for {waited:.0f} s"


def _name_within(seconds: float, source: Source, index: int) -> str:
    """What a person calls the record, if the source, which may hang here too, says so in time."""
    found: list[str] = []
    ask = threading.Thread(target=lambda: found.append(source.name(index)), daemon=True)
    ask.start()
    ask.join(seconds)
    return f" ({found[0]})" if found else ""


class _Noted(list):
    def __init__(self, indices, note):
        super().__init__(indices)
        self._note = note

    def __iter__(self):
        for index in super().__iter__():
            self._note(index)
            yield index

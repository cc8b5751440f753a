"""The errors that a user of Headrace can meet.

HeadraceError
├── DefinitionError   a definition in the feature repo is wrong
├── FormatError       a file or schema cannot be read as events at all
├── StateError        stored state is not what the engine wrote
│   ├── CorruptRowError   bytes that are damaged, or were never ours
│   ├── ForeignRowError   a whole row, of another definition or stream
│   └── RowsTooLargeError rows with more bytes than a column of them can have
├── FenceError        a batch contradicts the store's marker
├── LeaseError        another driver owns the view
├── LossError         a topic no longer has records that were not read
├── BusyError        another training of the project runs
├── StoreError        a store cannot be reached, or does not answer in time
├── ArtefactError     a model's files are damaged, foreign, or of another definition
└── UsageError        the command line names something that does not exist
"""

from __future__ import annotations

from features.redaction import redacted

MOST_ROW_BYTES = 2**31 - 1
"""Most bytes in a column of binary."""


class HeadraceError(Exception):
    """Something a user can fix: where it is, what is required, what came, what to do next; without secrets."""

    def __init__(self, where: str, required: str, got: str, next_step: str = "") -> None:
        self.where, self.required, self.got, self.next_step = map(redacted, (where, required, got, next_step))
        message = f"{self.where} requires {self.required}; got {self.got}."
        super().__init__(f"{message} {self.next_step}" if next_step else message)

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str]]:
        """Keep the four parts when the error crosses a process boundary."""
        return type(self), (self.where, self.required, self.got, self.next_step)


class DefinitionError(HeadraceError):
    """Raised at load by a definition that is wrong: correct the feature repo."""


class FormatError(HeadraceError):
    """Raised when a file, or the schema of a topic, cannot be read as events at all."""


class StateError(HeadraceError):
    """Raised when stored state is not what the engine wrote."""


class CorruptRowError(StateError):
    """Raised by bytes that are damaged or were never a state row: rebuild the rows that it names."""


class ForeignRowError(StateError):
    """Raised by a whole state row of another definition or another stream."""


class RowsTooLargeError(StateError):
    """Raised by rows with more bytes together than a column of them can have: 2 GiB."""

    def __init__(self, count: int, size: int) -> None:
        required = f"at most {MOST_ROW_BYTES:,} bytes together"
        step = "Read fewer at once, or define smaller rows (see 'headrace features check')."
        super().__init__(f"{count:,} rows", required, f"{size:,}", step)
        self._count, self._size = count, size

    def __reduce__(self) -> tuple[type, tuple[int, int]]:  # type: ignore[override]
        return type(self), (self._count, self._size)


class FenceError(StateError):
    """Raised when a batch contradicts the store's marker."""


class LeaseError(StateError):
    """Raised when another driver owns the view."""


class LossError(HeadraceError):
    """Raised when a topic no longer has records that were not read: somebody has to accept that, or bring them back."""


class BusyError(HeadraceError):
    """Raised when another training of the project runs."""


class ArtefactError(HeadraceError):
    """Raised when a model's files are not what training wrote: damaged, foreign, or of another definition."""


class StoreError(HeadraceError):
    """Raised when a store cannot be reached or does not answer in time: its content may be whole."""


class UsageError(HeadraceError):
    """Raised when the command line names something that does not exist; exits with 2."""

"""What a command says of a file's rows that are no events: their number, why, and the first of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from features.events import Parsed, Verdict

MOST_EXAMPLES = 3


@dataclass
class Refused:
    """The rows that were read and, of those refused, the number by the code of the reason, and the first reasons."""

    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, rows: int, reasons: Iterable[str]) -> None:
        """So many more rows were read; these are the reasons for those that were refused."""
        self.rows += rows
        for text in reasons:
            self.reasons[text.partition(":")[0]] += 1
            if len(self.examples) < MOST_EXAMPLES:
                self.examples.append(text)

    def watched(
        self, events: Iterable[tuple[str, Parsed]], log: Callable[[str], object]
    ) -> Iterator[tuple[str, Parsed]]:
        """The events, each chunk counted as it passes; ``log`` takes the lines() once all have passed."""
        for name, parsed in events:
            dead = (parsed.verdicts == Verdict.DEAD_LETTER).nonzero()[0]
            self.add(len(parsed.verdicts), parsed.reasons.take(dead).to_pylist())
            yield name, parsed
        for line in self.lines():
            log(line)

    def as_json(self) -> dict[str, Any]:
        """The counts and the first reasons."""
        return {
            "rows": self.rows,
            "refused": self.reasons.total(),
            "reasons": dict(self.reasons.most_common()),
            "examples": self.examples,
        }

    def lines(self) -> list[str]:
        """What to tell a person; nothing where no row was refused."""
        if not self.reasons:
            return []
        codes = ", ".join(f"{count:,} {code}" for code, count in self.reasons.most_common())
        more = self.reasons.total() - len(self.examples)
        lines = [f"{self.reasons.total():,} of {self.rows:,} rows refused ({codes}):"]
        lines += [f"  {text}" for text in self.examples]
        return lines + ([f"  and {more:,} more"] if more else [])

"""The word error rate of a transcript."""

from __future__ import annotations

import re


def words(text: str) -> list[str]:
    """The words in lower case and without punctuation. A hyphen ends a word."""
    return re.sub(r"[^\w\s]", "", text.lower().replace("-", " ")).split()


def errors(reference: list[str], hypothesis: list[str]) -> int:
    """The Levenshtein distance in words."""
    previous = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, start=1):
        row = [i]
        for j, word in enumerate(hypothesis, start=1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (expected != word)))
        previous = row
    return previous[-1]


def wer(reference: str, hypothesis: str) -> float:
    """Errors for each word of the reference: 0 if all are right."""
    expected = words(reference)
    return errors(expected, words(hypothesis)) / len(expected)

"""Word error rate: how far a transcript is from the reference text."""

from __future__ import annotations

import re


def words(text: str) -> list[str]:
    """Lower-cased, without punctuation; a hyphen ends a word: "cold-hearted" and "cold hearted" are the same."""
    return re.sub(r"[^\w\s]", "", text.lower().replace("-", " ")).split()


def errors(reference: list[str], hypothesis: list[str]) -> int:
    """The fewest words to change, add or leave out that turn `reference` into `hypothesis` (Levenshtein distance)."""
    previous = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, start=1):
        row = [i]
        for j, word in enumerate(hypothesis, start=1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (expected != word)))
        previous = row
    return previous[-1]


def wer(reference: str, hypothesis: str) -> float:
    """From 0, every word right, upwards; 1 is as many errors as words."""
    expected = words(reference)
    return errors(expected, words(hypothesis)) / len(expected)

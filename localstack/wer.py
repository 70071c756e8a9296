"""Word error rate: how far a transcript is from what was said."""

from __future__ import annotations

import re


def words(text: str) -> list[str]:
    """Lower-cased, without punctuation; a hyphen ends a word: "cold-hearted" and "cold hearted" are the same."""
    return re.sub(r"[^\w\s]", "", text.lower().replace("-", " ")).split()


def errors(reference: list[str], heard: list[str]) -> int:
    """The fewest words to change, add or leave out that make `heard` of `reference` (Levenshtein's distance)."""
    previous = list(range(len(heard) + 1))
    for i, said in enumerate(reference, start=1):
        row = [i]
        for j, word in enumerate(heard, start=1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (said != word)))
        previous = row
    return previous[-1]


def wer(reference: str, heard: str) -> float:
    """From 0, every word right, upwards; 1 is as many errors as words."""
    said = words(reference)
    return errors(said, words(heard)) / len(said)

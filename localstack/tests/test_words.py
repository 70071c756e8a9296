"""The check of words and lines finds what it should, and nothing else."""

from __future__ import annotations

import unittest

import support  # noqa: F401, its import makes the next one possible

# isort: split
import words


class Words(unittest.TestCase):
    def test_banned_words_are_found_in_prose_and_identifiers(self) -> None:
        for text in (
            "the client is told so",
            "fn is_told() {}",
            "let isTold = 1;",
            "struct ToldTwice;",
            "const TOLD_AT: u8 = 1;",
            "let said = 1;",
            "the path is none",
            "the body is\n/// no JSON",
            "a call is under\n    # way",
            "What is to be done",
        ):
            with self.subTest(text):
                self.assertEqual(len(words.faults("a.rs", text)), 1, words.faults("a.rs", text))

    def test_words_that_only_contain_a_banned_one_pass(self) -> None:
        for text in ("the outcome is no longer needed", "there is no such job", "she is the toldest", "unsaid, retold"):
            with self.subTest(text):
                self.assertEqual(words.faults("a.rs", text), [])

    def test_a_fault_names_its_line(self) -> None:
        self.assertEqual(words.faults("a.py", "one\ntwo told\n"), ["a.py:2: banned: told (told)"])

    def test_long_lines_are_faults_in_documents_only(self) -> None:
        self.assertEqual(words.faults("a.md", "x" * 120), [])
        self.assertEqual(len(words.faults("docs/a.md", "x" * 121)), 1)
        self.assertEqual(words.faults("a.rs", "x" * 121), [])

    def test_only_the_readme_is_limited_to_150_lines(self) -> None:
        self.assertEqual(words.faults("README.md", "x\n" * 150), [])
        self.assertEqual(len(words.faults("README.md", "x\n" * 151)), 1)
        self.assertEqual(words.faults("docs/a.md", "x\n" * 151), [])

    def test_code_and_documents_are_checked(self) -> None:
        for name in ("cli/src/main.rs", "infra/data.yaml", "README.md", "docs/api.md", "Makefile", "Cargo.toml"):
            self.assertTrue(words.is_checked(name), name)
        self.assertFalse(words.is_checked("localstack/samples/a.txt"))
        self.assertTrue(words.is_checked("localstack/samples/README.md"))


if __name__ == "__main__":
    unittest.main()

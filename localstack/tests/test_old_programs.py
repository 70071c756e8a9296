"""The programs of 0.1.0 come from this repository's history, or a message says what is missing."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from old_programs import COMMIT, archive
from services import Failure


class OldPrograms(unittest.TestCase):
    def test_a_repository_without_the_commit_is_refused_with_the_way_out(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["git", "init", "--quiet", folder], check=True)
            with self.assertRaisesRegex(Failure, rf"{COMMIT[:7]}.*git fetch --unshallow"):
                archive(Path(folder))

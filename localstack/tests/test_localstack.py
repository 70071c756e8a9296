"""The demo on LocalStack as a program, with built programs and the real model. `make test-all` runs it."""

import subprocess
import unittest

from support import ROOT, LocalStack


class OnLocalStack(unittest.TestCase):
    def setUp(self):
        self.stack = LocalStack(self, EMULATOR="localstack")

    def test_the_demo_prints_the_transcript_and_doctor_finds_no_fault(self):
        self.stack.succeeds("up")
        transcript = self.stack.succeeds(script="demo.py")
        print(transcript)
        self.assertIn("ask what you can do for your country", transcript)

        script = f". {self.stack.local / 'env'} && exec target/debug/longhand doctor"
        command = ["sh", "-c", script]
        doctor = subprocess.run(command, cwd=ROOT, env=self.stack.environment, capture_output=True, text=True)
        self.assertEqual(doctor.returncode, 0, doctor.stdout + doctor.stderr)
        warnings = [line.split("  ")[1] for line in doctor.stdout.splitlines() if line.startswith("warning")]
        self.assertEqual(warnings, ["table recovery", "bucket lifecycle"], doctor.stdout)

        # Its state goes with it, so that what is deployed again is new.
        self.assertNotIn("killed", self.stack.succeeds("down"))
        self.assertEqual(self.stack.processes(), [])
        self.stack.succeeds("up")
        self.stack.succeeds("down")


if __name__ == "__main__":
    unittest.main()

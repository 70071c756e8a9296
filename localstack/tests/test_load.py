"""`make load`: the stack that it makes for itself, with stand-ins for the Rust programs."""

from __future__ import annotations

import sys
import unittest

from support import LocalStack

# Prints its arguments and settings, and fails if it is given --jobs.
LOAD = f"""#!{sys.executable}
import os, sys, urllib.request
for name in ("LONGHAND_URL", "ASR_BASE_URL"):
    urllib.request.urlopen(os.environ[name] + "/healthz")
print("arguments", " ".join(sys.argv[1:]), "slots", os.environ["LONGHAND_CONCURRENCY"], os.environ["LONGHAND_URL"])
sys.exit(5 if "--jobs" in sys.argv else 0)
"""


class Load(unittest.TestCase):
    def test_a_stack_of_its_own_that_is_gone_afterwards(self):
        stack = LocalStack(self)
        stack.with_stand_ins()
        stack.program("longhand", LOAD)
        # The processes of the load's stack are those that are looked for.
        stack.local /= "load"

        # As if the settings of another stack had been read into this shell.
        elsewhere = {"LONGHAND_URL": "http://127.0.0.1:1", "ASR_BASE_URL": "http://127.0.0.1:1"}
        elsewhere |= {"LONGHAND_CONCURRENCY": "4", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
        done = stack.run("--jobs", "7", script="load.py", **elsewhere)
        self.assertEqual(done.returncode, 5, done.stdout)
        self.assertIn("arguments load --jobs 7 slots 256 http://127.0.0.1:", done.stdout)
        self.assertNotIn(f"http://127.0.0.1:{stack.ports['API_PORT']}", done.stdout, "another stack's port was taken")
        self.assertEqual(stack.processes(), [])
        self.assertIn("The logs are kept", done.stdout)
        self.assertTrue((stack.local / "logs" / "worker-1.log").exists())

        done = stack.run(script="load.py", LOAD_CONCURRENCY="9")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("arguments load slots 9 ", done.stdout)
        self.assertEqual(stack.processes(), [])
        self.assertFalse(stack.local.exists())

    def test_several_behind_nginx(self):
        stack = LocalStack(self)
        stack.with_stand_ins()
        stack.program("longhand", LOAD.replace('os.environ["LONGHAND_URL"])', 'os.environ["LONGHAND_LISTEN"])'))
        stack.local /= "load"
        done = stack.run(script="load.py", SCALE="2", REDIS="none")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("2 apis behind nginx, as many workers with 256 slots", done.stdout)
        self.assertRegex(done.stdout, r"slots 256 127\.0\.0\.1:\d+,127\.0\.0\.1:\d+\n", "whose metrics are read")
        self.assertEqual(stack.processes(), [])

    def test_a_service_that_dies_leaves_nothing_behind(self):
        stack = LocalStack(self)
        stack.with_stand_ins()
        stack.program("longhand-worker", "#!/bin/sh\necho it is not to its liking >&2\nexit 3\n")
        stack.local /= "load"
        done = stack.run(script="load.py")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("it is not to its liking", done.stdout)
        self.assertEqual(stack.processes(), [])


if __name__ == "__main__":
    unittest.main()

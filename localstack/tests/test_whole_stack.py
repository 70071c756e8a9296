"""Everything for real: built programs, real model, and at the end the demo itself."""

from __future__ import annotations

import os
import signal
import unittest

from support import LocalStack


class Demo(unittest.TestCase):
    def test_demo(self):
        stack = LocalStack(self)
        stack.succeeds("up")

        done = stack.run(script="demo.py")
        print(done.stdout)
        self.assertEqual(done.returncode, 0)
        self.assertIn("ask what you can do for your country", done.stdout)

        # After the demo and not before: the emulator hands messages to a dead worker's last receive, and a job that
        # comes just then waits for their visibility timeout.
        first = stack.pids()
        os.kill(first["worker"], signal.SIGKILL)
        stack.succeeds("up")
        self.assertNotIn(stack.pid("worker"), (None, first["worker"]))
        self.assertEqual(stack.pids() | {"worker": 0}, first | {"worker": 0}, "more than the worker was started again")

        done = stack.run("down")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertNotIn("killed", done.stdout, "a service did not end by itself")
        self.assertEqual(stack.processes(), [])


if __name__ == "__main__":
    unittest.main()

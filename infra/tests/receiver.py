"""A webhook receiver."""

from __future__ import annotations

import threading

from server import Quiet, Server


class Receiver(Server):
    """Answers as its paths say, /ok only after `seconds`."""

    def __init__(self, seconds: float):
        class Handler(Quiet):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/ok":
                    slow.wait(seconds)
                self.send_response({"/ok": 204, "/gone": 410}.get(self.path, 500))
                self.send_header("content-length", "0")
                self.end_headers()

        slow = threading.Event()
        super().__init__(Handler)

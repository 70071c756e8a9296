"""The console at /console in Debian's Chromium, by Playwright, on a stack with a real model (`browser/console.mjs`).

Alone: python3 localstack/stack.py install browser; cd localstack/tests && python3 -m unittest long_console
With SHOTS=FOLDER it leaves a picture of each view there.
"""

from __future__ import annotations

import array
import json
import os
import shlex
import subprocess
import unittest
import wave
from pathlib import Path

from issuer import Issuer
from support import LOCALSTACK, TOOLS, LocalStack

BROWSER = Path(__file__).resolve().parent / "browser"
SAMPLES = sorted((LOCALSTACK / "samples").glob("*.wav"))
MODULES = TOOLS / "browser" / "node_modules"


class Console(unittest.TestCase):
    def test_people_and_operators_work_with_it(self):
        stack = LocalStack(self)
        keys = stack.directory / "keys"
        keys.write_text("")
        settings = self.up(stack, LONGHAND_AUTH="apikey", LONGHAND_API_KEYS_FILE=str(keys))
        given = {name: self.key(stack, name, keys) for name in ("ana", "bob", "ops")}
        recording = stack.directory / "recording.wav"
        long_recording(recording)
        self.drive(
            "console.mjs",
            URL=settings["LONGHAND_URL"],
            AUDIO=settings["LONGHAND_AUDIO_ROOT"],
            FILES=json.dumps([str(sample) for sample in SAMPLES]),
            RECORDING=str(recording),
            **{name.upper(): key for name, key in given.items()},
        )

    def test_people_sign_in_by_token_or_by_name(self):
        issuer = Issuer(self)
        stack = LocalStack(self, ASR="sim", LONGHAND_POLL_SECONDS="1")
        given = {"FILES": json.dumps([str(sample) for sample in SAMPLES[:2]])}
        settings = self.up(stack, **issuer.settings())
        given["URL"] = settings["LONGHAND_URL"]
        self.drive("sign_in.mjs", CREDENTIAL=issuer.token("ana"), USER="ana", AUTH="jwt", **given)
        self.up(stack, LONGHAND_AUTH="none")
        self.drive("sign_in.mjs", CREDENTIAL="zoe", USER="zoe", AUTH="none", **given)

    def test_it_works_behind_a_gateway_with_a_base_path(self):
        issuer = Issuer(self)
        stack = LocalStack(self, ASR="sim", LONGHAND_POLL_SECONDS="1", GATEWAY="1")
        settings = self.up(stack, **issuer.settings())
        given = {"FILES": json.dumps([str(sample) for sample in SAMPLES[:2]]), "URL": settings["LONGHAND_URL"]}
        self.drive("sign_in.mjs", CREDENTIAL=issuer.token("ana"), USER="ana", AUTH="jwt", **given)

    def up(self, stack: LocalStack, **settings: str) -> dict[str, str]:
        done = stack.run("up", **settings)
        self.assertEqual(done.returncode, 0, done.stdout)
        lines = (stack.local / "env").read_text().splitlines()
        return dict(shlex.split(line)[1].split("=", 1) for line in lines)

    def key(self, stack: LocalStack, user: str, keys: Path) -> str:
        programs = os.environ.get("LONGHAND_BIN_DIR") or LOCALSTACK.parent / "target" / "debug"
        command = [Path(programs) / "longhand", "key", "new", "--user", user]
        command += ["--operator"] if user == "ops" else []
        made = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        with keys.open("a") as file:
            file.write(f"{made[1]}\n")
        return made[0]

    def drive(self, script: str, **given: str) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "SHOTS") if name in os.environ}
        environment = {**kept, "MODULES": str(MODULES), **given}
        done = subprocess.run(
            ["node", BROWSER / script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        print(done.stdout)
        self.assertEqual(done.returncode, 0)


def long_recording(path: Path) -> None:
    """All samples one after the other, in 48 kHz stereo: more than 5 MB, as recorders write it."""
    with wave.open(str(path), "wb") as out:
        out.setparams((2, 2, 48000, 0, "NONE", ""))
        for sample in SAMPLES:
            with wave.open(str(sample)) as recording:
                assert recording.getparams()[:3] == (1, 2, 16000), sample
                mono = array.array("h", recording.readframes(recording.getnframes()))
            out.writeframes(array.array("h", [value for value in mono for _ in range(6)]).tobytes())
            out.writeframes(bytes(48000 * 4 // 2))


if __name__ == "__main__":
    unittest.main()

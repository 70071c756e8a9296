"""SCALE=3: three apis and three workers, nginx before the apis, and a Redis between them.

nginx has the address that one api would have, so nobody has to know of the others. Theirs begin at SCALE_PORT, in
pairs: api-1 has that port, worker-1 (its health) the next one, api-2 the one after, and so on; so another SCALE moves
none that runs.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
from pathlib import Path

from provision import HERE, ensure_program
from services import Failure, Service

TEMPLATE = HERE / "nginx.conf.in"
# Where Debian has it, which is not on everybody's path.
PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin"
# Of one of them there may be several: api-1, api-2.
KINDS = ["emulator", "asr", "redis", "api", "worker", "nginx"]


def kind(name: str) -> str:
    return name.partition("-")[0]


def in_order(name: str) -> tuple[int, int]:
    """What starts first stands first; api-10 after api-9."""
    return KINDS.index(kind(name)), int(name.partition("-")[2] or 0)


def ensure_nginx(log: Path) -> None:
    ensure_program("nginx", "nginx-light", "SCALE needs it before the apis.", log, PATH)


class Scale:
    """What is there beside, or instead of, one api and one worker."""

    def __init__(self, count: int, local: Path, ports: dict[str, int]):
        self.count = count
        self.local = local
        self.ports = ports
        # One's own, or none: without it each api keeps its own cache, and looks at the table for those who wait.
        self.redis_url = os.environ.get("REDIS_URL")
        redis = os.environ.get("REDIS") or "own"
        if redis not in ("own", "none"):
            raise Failure(f"REDIS is {redis!r}; it can be own, none.")
        self.own_redis = redis == "own" and not self.redis_url
        highest = ports["SCALE_PORT"] + 2 * count - 1
        if highest > 65535:
            raise Failure(f"SCALE_PORT and SCALE make ports up to {highest}; the highest port is 65535.")

    def pairs(self) -> list[tuple[int, int, int]]:
        """The number of each pair, its api's port, and its worker's."""
        first = self.ports["SCALE_PORT"]
        return [(number, first + 2 * number - 2, first + 2 * number - 1) for number in range(1, self.count + 1)]

    def ensure(self, log: Path) -> None:
        ensure_nginx(log)
        if self.own_redis:
            why = "SCALE starts one, as AWS has one; REDIS=none goes without, and REDIS_URL names one that there is."
            ensure_program("redis-server", "redis-server", why, log)

    def redis(self) -> list[Service]:
        if not self.own_redis:
            return []
        folder = self.local / "redis"
        folder.mkdir(parents=True, exist_ok=True)
        port = self.ports["REDIS_PORT"]
        # A cache: nothing of it outlives it.
        keep_nothing = ["--save", "", "--appendonly", "no", "--dir", str(folder)]
        return [
            Service(
                name="redis",
                argv=["redis-server", "--bind", "127.0.0.1", "--port", str(port), *keep_nothing],
                port=port,
                port_setting="REDIS_PORT",
                scheme="redis",
                health="",
            )
        ]

    def listening(self) -> dict[str, str]:
        """Where the apis and the workers are: for `longhand load`, which asks each for its metrics."""
        return {
            "LONGHAND_LISTEN": ",".join(f"127.0.0.1:{api}" for _, api, _ in self.pairs()),
            "LONGHAND_HEALTH_LISTEN": ",".join(f"127.0.0.1:{worker}" for _, _, worker in self.pairs()),
        }

    def spread(self, one: Service) -> list[Service]:
        """As many as are wanted in place of one api, or one worker."""
        several = []
        for number, api, worker in self.pairs():
            own = {"LONGHAND_LISTEN": f"127.0.0.1:{api}", "LONGHAND_HEALTH_LISTEN": f"127.0.0.1:{worker}"}
            if self.own_redis:
                own["REDIS_URL"] = f"redis://127.0.0.1:{self.ports['REDIS_PORT']}"
            several.append(
                Service(
                    name=f"{one.name}-{number}",
                    argv=one.argv,
                    port=api if one.name == "api" else worker,
                    port_setting="SCALE_PORT",
                    health=one.health,
                    settings={**one.settings, **own},
                    stop_within=one.stop_within,
                )
            )
        return several

    def nginx(self) -> Service:
        folder = self.local / "nginx"
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "nginx.conf"
        text = self.config(folder)
        # Rewritten only if it differs: the supervisor restarts nginx when its modification time changes.
        if not config.exists() or config.read_text() != text:
            config.write_text(text)
        return Service(
            name="nginx",
            argv=[
                shutil.which("nginx", path=PATH) or "nginx",
                *("-e", "stderr", "-p", str(folder), "-c", str(config)),
            ],
            port=self.ports["API_PORT"],
            port_setting="API_PORT",
            health="/readyz",
        )

    def config(self, folder: Path) -> str:
        server = "        server 127.0.0.1:{} max_fails=1 fail_timeout=1s;"
        servers = "\n".join(server.format(api) for _, api, _ in self.pairs())
        text = TEMPLATE.read_text().replace("@FOLDER@", str(folder))
        return text.replace("@LISTEN@", f"127.0.0.1:{self.ports['API_PORT']}").replace("@SERVERS@", servers)


def free_pairs(count: int) -> int:
    """A SCALE_PORT after which all ports that are wanted are free, below those that the system gives away."""
    for _ in range(1000):
        first = random.randrange(12_000, 32_000 - 2 * count, 2)
        if all(is_free(port) for port in range(first, first + 2 * count)):
            return first
    raise Failure(f"There are no {2 * count} free ports in a row.")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

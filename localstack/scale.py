"""SCALE=3: three apis and three workers, nginx in front of the apis, and a Redis.

nginx has the address that a single api would have. The other ports begin at SCALE_PORT, in pairs: api-1 has that port,
worker-1 (its health) the next, api-2 the one after. So another SCALE moves no running service.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

from provision import HERE, ensure_program
from services import Failure, Service, is_free

TEMPLATE = HERE / "nginx.conf.in"
# Debian has nginx in folders that are not on every user's path.
PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin"
# The kinds of services, in the order of their start. There may be several: api-1, api-2.
KINDS = ["emulator", "asr", "redis", "api", "worker", "nginx"]


def kind(name: str) -> str:
    return name.partition("-")[0]


def in_order(name: str) -> tuple[int, int]:
    """A sort key: the order of their start, and api-10 after api-9."""
    return KINDS.index(kind(name)), int(name.partition("-")[2] or 0)


def ensure_nginx(log: Path) -> None:
    ensure_program("nginx", "nginx-light", "SCALE puts it in front of the apis.", log, PATH)


class Scale:
    """The services of SCALE."""

    def __init__(self, count: int, local: Path, ports: dict[str, int]):
        self.count = count
        self.local = local
        self.ports = ports
        # Without Redis each api has a cache of its own and polls the table for waiting clients.
        self.redis_url = os.environ.get("REDIS_URL")
        redis = os.environ.get("REDIS") or "own"
        if redis not in ("own", "none"):
            raise Failure(f"REDIS is {redis!r}; it can be own, none.")
        self.own_redis = redis == "own" and not self.redis_url
        highest = ports["SCALE_PORT"] + 2 * count - 1
        if highest > 65535:
            raise Failure(f"SCALE_PORT and SCALE need ports up to {highest}; the highest port is 65535.")

    def pairs(self) -> list[tuple[int, int, int]]:
        """Number, api port and worker port."""
        first = self.ports["SCALE_PORT"]
        return [(number, first + 2 * number - 2, first + 2 * number - 1) for number in range(1, self.count + 1)]

    def ensure(self, log: Path) -> None:
        ensure_nginx(log)
        if self.own_redis:
            why = "SCALE starts one. REDIS=none omits it, and REDIS_URL names another."
            ensure_program("redis-server", "redis-server", why, log)

    def redis(self) -> list[Service]:
        if not self.own_redis:
            return []
        folder = self.local / "redis"
        folder.mkdir(parents=True, exist_ok=True)
        port = self.ports["REDIS_PORT"]
        in_memory = ["--save", "", "--appendonly", "no", "--dir", str(folder)]
        argv = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), *in_memory]
        return [Service("redis", argv, port, health="", port_setting="REDIS_PORT", scheme="redis")]

    def listening(self) -> dict[str, str]:
        """All addresses, for `longhand load`, which reads the metrics of each program."""
        return {
            "LONGHAND_LISTEN": ",".join(f"127.0.0.1:{api}" for _, api, _ in self.pairs()),
            "LONGHAND_HEALTH_LISTEN": ",".join(f"127.0.0.1:{worker}" for _, _, worker in self.pairs()),
        }

    def spread(self, one: Service) -> list[Service]:
        """The instances of the api, or of the worker."""
        several = []
        for number, api, worker in self.pairs():
            own = {"LONGHAND_LISTEN": f"127.0.0.1:{api}", "LONGHAND_HEALTH_LISTEN": f"127.0.0.1:{worker}"}
            if self.own_redis:
                own["REDIS_URL"] = f"redis://127.0.0.1:{self.ports['REDIS_PORT']}"
            name, port, settings = f"{one.name}-{number}", api if one.name == "api" else worker, one.settings | own
            several.append(replace(one, name=name, port=port, port_setting="SCALE_PORT", settings=settings))
        return several

    def nginx(self) -> Service:
        folder, port = self.local / "nginx", self.ports["API_PORT"]
        folder.mkdir(parents=True, exist_ok=True)
        servers = (f"        server 127.0.0.1:{api} max_fails=1 fail_timeout=1s;" for _, api, _ in self.pairs())
        text = TEMPLATE.read_text()
        for name, value in {"FOLDER": folder, "LISTEN": f"127.0.0.1:{port}", "SERVERS": "\n".join(servers)}.items():
            text = text.replace(f"@{name}@", str(value))
        config = folder / "nginx.conf"
        # Written only if it differs, since the supervisor restarts nginx when its modification time changes.
        if not config.exists() or config.read_text() != text:
            config.write_text(text)
        argv = [shutil.which("nginx", path=PATH) or "nginx", "-e", "stderr", "-p", str(folder), "-c", str(config)]
        return Service("nginx", argv, port, health="/readyz", port_setting="API_PORT")


def free_pairs(count: int) -> int:
    """A SCALE_PORT with enough free ports after it, below those of `free_port`."""
    for _ in range(1000):
        first = random.randrange(12_000, 20_000 - 2 * count, 2)
        if all(is_free(port) for port in range(first, first + 2 * count)):
            return first
    raise Failure(f"There are no {2 * count} free ports in a row.")

"""The programs with a Redis as infra/cache.yaml guards it: TLS, a user with that template's rights, nobody else."""

from __future__ import annotations

import socket
import subprocess
import unittest
from pathlib import Path

from client import Client
from cloud import PARTS
from support import PYTHON, LocalStack, eventually, free_port

# A certificate that signs itself, for localhost: cryptography is a package of the virtual environment.
CERTIFICATE = """
import datetime, sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "localhost")])
now = datetime.datetime.now(datetime.UTC)
made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now.replace(year=9999))
made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False).sign(key, hashes.SHA256())
plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
open(sys.argv[1], "wb").write(made.public_bytes(serialization.Encoding.PEM))
open(sys.argv[2], "wb").write(key.private_bytes(serialization.Encoding.PEM, *plain))
"""
RESOURCES = next(part for part in PARTS if part.name == "cache").template["Resources"]


class Guarded:
    """Redis at a port with TLS for the programs, and at a plain one, where the test looks at it as its root."""

    def __init__(self, test: unittest.TestCase, folder: Path):
        self.tls, self.plain = free_port(), free_port()
        self.certificate = folder / "certificate.pem"
        key = folder / "key.pem"
        subprocess.run([PYTHON, "-c", CERTIFICATE, self.certificate, key], check=True)
        users = folder / "users.acl"
        access = {name: RESOURCES[name]["Properties"]["AccessString"] for name in ("User", "DefaultUser")}
        users.write_text(f"user longhand {access['User']} >password\nuser default {access['DefaultUser']} >password\n")
        # What ElastiCache has none of: somebody who may look.
        with users.open("a") as file:
            file.write("user root on ~* &* +@all >root\n")
        options = {
            "port": self.plain,
            "tls-port": self.tls,
            "tls-cert-file": self.certificate,
            "tls-key-file": key,
            "tls-auth-clients": "no",
            "aclfile": users,
            "bind": "127.0.0.1",
            "save": "",
        }
        command = ["redis-server", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        test.addCleanup(process.wait)
        test.addCleanup(process.terminate)
        eventually("redis-server answers", lambda: "PONG" in self.ask("PING"))

    def ask(self, command: str, login: str = "AUTH root root\r\n") -> str:
        try:
            with socket.create_connection(("127.0.0.1", self.plain), timeout=5) as connection:
                connection.sendall(f"{login}{command}\r\nQUIT\r\n".encode())
                return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        except OSError:
            return ""


class Cache(unittest.TestCase):
    def test_the_programs_have_the_rights_that_they_need(self):
        stack = LocalStack(self, ASR="sim", LONGHAND_POLL_SECONDS="1")
        redis = Guarded(self, stack.directory)
        settings = {
            "REDIS_URL": f"rediss://longhand:password@localhost:{redis.tls}",
            # Whom rustls trusts.
            "SSL_CERT_FILE": str(redis.certificate),
        }
        up = stack.run("up", **settings)
        self.assertEqual(up.returncode, 0, up.stdout)
        api = Client(f"http://127.0.0.1:{stack.ports['API_PORT']}")
        ready = (200, {"status": "ready", "missing": []})
        eventually("Redis answers", lambda: api.call("GET", "/readyz") == ready)
        job = api.submit([api.upload()], wait=20)
        self.assertEqual(job["jobStatus"], "COMPLETED")

        result = f"longhand:v1:result:{job['jobId']}"
        eventually("the result is kept", lambda: job["jobId"] in redis.ask(f"GET {result}"))
        self.assertIn("longhand:v1:rate:submits:ana", redis.ask("KEYS *"), "submits are counted by all")
        self.assertIn(":1\r\n", redis.ask("PUBSUB NUMPAT"), "the api is woken")
        self.assertIn("cmd=psubscribe|user=longhand", redis.ask("CLIENT LIST").replace(" user", "|user"))
        self.assertNotIn("reason=command", redis.ask("ACL LOG"), "nothing was refused")
        self.assertNotIn("reason=key", redis.ask("ACL LOG"))
        self.assertNotIn("reason=channel", redis.ask("ACL LOG"))
        self.assertEqual(api.call("DELETE", f"/transcript/{job['jobId']}")[0], 204)
        self.assertIn("$0\r\n", redis.ask(f"GET {result}"), "a mark in its place")

    def test_nobody_else_has_any(self):
        stack = LocalStack(self)
        redis = Guarded(self, stack.directory)
        self.assertIn("-NOAUTH", redis.ask("GET longhand:v1:x", login=""))
        as_longhand = "AUTH longhand password\r\n"
        for command in ("GET other", "FLUSHALL", "KEYS *", "SUBSCRIBE other", "CONFIG GET *"):
            with self.subTest(command):
                self.assertIn("-NOPERM", redis.ask(command, login=as_longhand))

    def test_the_cache_lets_in_the_tasks_alone(self):
        ingress = RESOURCES["SecurityGroup"]["Properties"]["SecurityGroupIngress"]
        self.assertEqual([one.get("CidrIp") for one in ingress], [None])
        self.assertEqual(ingress[0]["SourceSecurityGroupId"], {"Fn::GetAtt": ["ClientSecurityGroup", "GroupId"]})
        self.assertEqual(RESOURCES["Cache"]["Properties"]["UserGroupIds"], [{"Ref": "UserGroup"}])
        service = next(part for part in PARTS if part.name == "service").template["Resources"]
        for name in ("ApiService", "WorkerService"):
            network = service[name]["Properties"]["NetworkConfiguration"]["AwsvpcConfiguration"]
            self.assertIn("CacheClientSecurityGroupId", str(network["SecurityGroups"]))


if __name__ == "__main__":
    unittest.main()

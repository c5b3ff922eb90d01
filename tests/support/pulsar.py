"""A real Apache Pulsar, standalone, for tests: fetched once from Maven Central, started on free ports, always ended.

`python -m tests.support.pulsar COMMAND…` runs a command with HEADWATER_CLOUD_URL and HEADWATER_CLOUD_ADMIN_URL
pointing to one.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.support.ports import free_port
from tests.support.process import Child

VERSION = "4.0.8"
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "pulsar"
FETCH_TIMEOUT_S = 900
START_TIMEOUT_S = 120.0
HEAP = "256m"
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>headwater.tests</groupId><artifactId>pulsar</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.pulsar</groupId><artifactId>pulsar-server-distribution</artifactId><version>{VERSION}</version>
    <classifier>bin</classifier><type>tar.gz</type>
    <exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>
  </dependency></dependencies>
</project>
"""
_JVM_FLAGS = """
-XX:+UseSerialGC -Djava.net.preferIPv4Stack=true -Dio.netty.tryReflectionSetAccessible=true
-Dlog4j2.is.webapp=false -Dzookeeper.admin.enableServer=false
--add-opens java.base/java.io=ALL-UNNAMED --add-opens java.base/java.util.zip=ALL-UNNAMED
--add-opens java.base/java.nio=ALL-UNNAMED --add-opens java.base/jdk.internal.misc=ALL-UNNAMED
--add-opens java.base/jdk.internal.platform=ALL-UNNAMED --add-opens java.management/sun.management=ALL-UNNAMED
--add-opens jdk.management/com.sun.management.internal=ALL-UNNAMED
-Dbookkeeper.metadata.bookie.drivers=org.apache.pulsar.metadata.bookkeeper.PulsarMetadataBookieDriver
-Dbookkeeper.metadata.client.drivers=org.apache.pulsar.metadata.bookkeeper.PulsarMetadataClientDriver
"""
_LOG4J = """<Configuration status="ERROR">
<Appenders><Console name="c"><PatternLayout pattern="%d %p %c{1} %m%n"/></Console></Appenders>
<Loggers><Root level="WARN"><AppenderRef ref="c"/></Root></Loggers>
</Configuration>
"""


class PulsarMissing(Exception):
    """Apache Pulsar can't be had on this machine; the text says why."""


def distribution() -> Path:
    """The unpacked distribution, fetched if need be. Raises: PulsarMissing."""
    home = CACHE / f"apache-pulsar-{VERSION}"
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            raise PulsarMissing(f"Apache Pulsar needs {tool}, which is not installed")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        # Several test processes may want it at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            _fetch(home)
    return home


def _fetch(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    (CACHE / "pom.xml").write_text(_POM)
    print(f"fetching Apache Pulsar {VERSION} with Maven (235 MiB, once)", file=sys.stderr, flush=True)
    outcome = subprocess.run(
        ["mvn", "-B", "-q", "dependency:copy-dependencies", "-DoutputDirectory=download"],
        cwd=CACHE,
        capture_output=True,
        text=True,
        timeout=FETCH_TIMEOUT_S,
        check=False,
    )
    archives = list((CACHE / "download").glob("*.tar.gz"))
    if outcome.returncode or not archives:
        raise PulsarMissing(f"Maven could not fetch Apache Pulsar {VERSION}: {outcome.stdout[-300:]}")
    with tarfile.open(archives[0]) as archive:
        # Python before 3.11.4, such as that of Debian 12, knows no filters.
        if hasattr(tarfile, "tar_filter"):
            archive.extractall(CACHE, filter="tar")
        else:
            archive.extractall(CACHE)
    shutil.rmtree(CACHE / "download")
    (home / "complete").touch()


class PulsarRig:
    """One standalone Pulsar with a folder of its own."""

    def __init__(self, folder: Path, *, inactivity_minutes: int = 360, secure: bool = False) -> None:
        self._home = distribution()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.http_port = free_port()
        self.bookie_port = free_port()
        self.tls_port = free_port() if secure else 0
        self.admin_url = f"http://127.0.0.1:{self.http_port}"
        self.token = ""
        self.ca_file = folder / "ca.pem"
        self.child: Child | None = None
        lines = {
            "clusterName": "standalone",
            "bindAddress": "127.0.0.1",
            "advertisedAddress": "127.0.0.1",
            "brokerServicePort": self.port,
            "webServicePort": self.http_port,
            "listeningInterface": "lo",
            "allowLoopback": "true",
            "journalSyncData": "true",
            "journalMaxGroupWaitMSec": 1,
            "managedLedgerDefaultEnsembleSize": 1,
            "managedLedgerDefaultWriteQuorum": 1,
            "managedLedgerDefaultAckQuorum": 1,
            "bookkeeperClientMinNumRacksPerWriteQuorum": 1,
            "ledgerStorageClass": "org.apache.bookkeeper.bookie.storage.ldb.DbLedgerStorage",
            "diskUsageThreshold": 0.99,
            "diskUsageWarnThreshold": 0.99,
            "loadBalancerEnabled": "false",
            "loadManagerClassName": "org.apache.pulsar.broker.loadbalance.NoopLoadManager",
            "brokerDeleteInactiveTopicsEnabled": "false",
            "webSocketServiceEnabled": "false",
            "transactionCoordinatorEnabled": "false",
            "acknowledgmentAtBatchIndexLevelEnabled": "true",
            # The bookie reads this file too. Its own default leaves no room for a largest message's envelope.
            "nettyMaxFrameSizeBytes": 5_253_120,
            "brokerDeduplicationEnabled": "true",
            "brokerDeduplicationProducerInactivityTimeoutMinutes": inactivity_minutes,
            "brokerDeduplicationSnapshotFrequencyInSeconds": 1,
            "defaultRetentionTimeInMinutes": -1,
            "defaultRetentionSizeInMB": -1,
        }
        if secure:
            lines |= self._secure()
        (folder / "standalone.conf").write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        (folder / "jvm.flags").write_text(_JVM_FLAGS)
        (folder / "log4j2.xml").write_text(_LOG4J)

    @property
    def service_url(self) -> str:
        return f"pulsar+ssl://localhost:{self.tls_port}" if self.tls_port else f"pulsar://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.process.pid

    def start(self) -> PulsarRig:
        """Start it and wait until it serves."""
        folder = self.folder
        self.child = Child(
            [
                "java", f"@{folder / 'jvm.flags'}", f"-Xmx{HEAP}", f"-XX:MaxDirectMemorySize={HEAP}",
                "-cp", f"{self._home}/conf:{self._home}/lib/*",
                f"-Dlog4j2.configurationFile={folder / 'log4j2.xml'}",
                f"-Dpulsar.config.file={folder / 'standalone.conf'}",
                "org.apache.pulsar.PulsarStandaloneStarter", "--config", folder / "standalone.conf",
                "--no-functions-worker", "--no-stream-storage", "--advertised-address", "127.0.0.1",
                "--metadata-dir", folder / "metadata", "--bookkeeper-dir", folder / "bookies",
                "--bookkeeper-port", str(self.bookie_port),
            ],
            folder / "log.txt",
        )  # fmt: skip
        self.child.wait_ready(lambda: self.rest("GET", "/namespaces/public/default")[0] == 200, START_TIMEOUT_S)
        return self

    def kill(self) -> None:
        """SIGKILL."""
        assert self.child is not None
        self.child.kill()

    def stop(self) -> None:
        assert self.child is not None
        self.child.stop()

    def __enter__(self) -> PulsarRig:
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def rest(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and answer of the admin REST."""
        request = urllib.request.Request(f"{self.admin_url}/admin/v2{path}", method=method)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                text = response.read()
                return response.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def make_namespace(self, namespace: str) -> None:
        """Create a namespace, its tenant included."""
        tenant = namespace.split("/")[0]
        self.rest("PUT", f"/tenants/{tenant}", {"adminRoles": [], "allowedClusters": ["standalone"]})
        status, answer = self.rest("PUT", f"/namespaces/{namespace}", {})
        assert status in (204, 409), answer

    def unload(self, topic: str) -> None:
        """Unload a topic, `tenant/namespace/name`: what Pulsar keeps only in memory about it is gone."""
        status, answer = self.rest("PUT", f"/persistent/{topic}/unload")
        assert status == 204, answer

    def role_token(self, role: str) -> str:
        """A token for a role, signed with this rig's own key."""

        def encode(data: bytes) -> str:
            return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

        signed = f"{encode(json.dumps({'alg': 'HS256'}).encode())}.{encode(json.dumps({'sub': role}).encode())}"
        return f"{signed}.{encode(hmac.digest(self._key, signed.encode(), hashlib.sha256))}"

    def _secure(self) -> dict[str, Any]:
        """TLS, tokens and authorisation, with keys made now."""
        import trustme
        from cryptography.hazmat.primitives import serialization

        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        authority.cert_pem.write_to_path(self.ca_file)
        (self.folder / "server.pem").write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
        key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
        (self.folder / "server.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self._key = secrets.token_bytes(32)
        (self.folder / "secret.key").write_bytes(self._key)
        self.token = self.role_token("admin")
        return {
            "brokerServicePortTls": self.tls_port,
            "tlsCertificateFilePath": self.folder / "server.pem",
            "tlsKeyFilePath": self.folder / "server.key",
            "tlsTrustCertsFilePath": self.ca_file,
            "authenticationEnabled": "true",
            "authenticationProviders": "org.apache.pulsar.broker.authentication.AuthenticationProviderToken",
            "tokenSecretKey": f"file://{self.folder / 'secret.key'}",
            "authorizationEnabled": "true",
            "superUserRoles": "admin",
            "brokerClientAuthenticationPlugin": "org.apache.pulsar.client.impl.auth.AuthenticationToken",
            "brokerClientAuthenticationParameters": f"token:{self.token}",
            "brokerClientTrustCertsFilePath": self.ca_file,
        }


def main() -> int:
    """Run a command beside a Pulsar."""
    with tempfile.TemporaryDirectory(prefix="headwater-pulsar-") as folder:
        try:
            rig = PulsarRig(Path(folder))
        except PulsarMissing as error:
            print(f"headwater: {error}", file=sys.stderr)
            return 1
        with rig:
            environment = {
                **os.environ,
                "HEADWATER_CLOUD_URL": rig.service_url,
                "HEADWATER_CLOUD_ADMIN_URL": rig.admin_url,
            }
            return subprocess.run(sys.argv[1:], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

"""Somebody in the middle of each hop, who ends TLS and begins it anew."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arv_ssh.controller.gateways import dial
from arv_ssh.controller.gateways.dial import Made, Target, TcpDialer
from arv_ssh.errors import BadGateway
from arv_ssh.trust.session_claim import SessionClaim
from tests.integration.controllers import ssh_config
from tests.integration.embedded_cluster import docker_container
from tests.security.conftest import Site
from tests.security.wire import Interceptor, send
from tests.timing import DEADLINE

USER = "zzzzz-tpzed-xurymjxw79nv3jz"


def program(name: str) -> str:
    """Return the path of one of this package's programs."""
    return str(Path(sys.executable).with_name(name))


def test_client_to_controller(site: Site, tmp_path: Path) -> None:
    """A certificate of an authority that the user does not trust: ssh ends, and no token has been sent."""
    with Interceptor(site.controller.address).listening() as between:
        config = ssh_config(site.cluster, between.address, tmp_path)
        done = subprocess.run(
            ["ssh", "-F", str(config), site.busybox, "true"], capture_output=True, text=True, timeout=DEADLINE
        )
    assert done.returncode == 255 and "certificate" in done.stderr
    assert between.tried and between.received == b""


class Detour:
    """A network that leads the controller's connections to somebody else; the address on the record stays."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def dial(self, uuid: str, address: str, protocol: Made) -> None:
        await TcpDialer().dial(uuid, self._address, protocol)


def test_controller_to_gateway(site: Site) -> None:
    """Gateways' certificates are not checked; but who relays gets proofs over the own certificate, of use nowhere."""
    uuid = site.busybox
    real = site.address(uuid)
    with Interceptor(real).listening() as between:
        claim = SessionClaim(uuid, int(time.time()) + 60, "", "req-detour", USER)
        target = Target(site.secret(uuid), real, claim, "", dialer=Detour(between.address))
        with pytest.raises(BadGateway, match=r"refused the session.*X-Arvados-Authorization is wrong"):
            asyncio.run(dial.connect(target))
    assert between.received.startswith(b"POST /ssh ")
    assert site.secret(uuid).encode() not in between.received
    answer = send(real, bytes(between.received))
    assert answer.status == 401


def test_node_to_api(site: Site) -> None:
    """crunch-run gives its token to nobody whose certificate it cannot check."""
    environment = {
        "PATH": os.environ["PATH"], "SSL_CERT_FILE": str(site.cluster.directory.ca), "ARVADOS_API_TOKEN": "v2/a/b",
    }  # fmt: skip
    with Interceptor(site.controller.address).listening() as between:
        process = subprocess.Popen(
            [program("crunch-run"), "zzzzz-dz642-000000000000000"],
            env=environment | {"ARVADOS_API_HOST": between.address},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout
        line = next(one for one in process.stdout if "certificate verify failed" in one or "CERTIFICATE" in one)
        process.terminate()
        process.communicate(timeout=DEADLINE)
    assert line and between.tried and between.received == b""


def test_tunnel(site: Site) -> None:
    """A gateway gives the container's secret, which opens its tunnel, to no controller that it cannot check."""
    with Interceptor(site.controller.address).listening() as between:
        process = subprocess.Popen(
            [program("crunch-sshd"), "--container-uuid", site.busybox, "--docker-container",
             docker_container(site.busybox), "--gateway-auth-secret", "env:SECRET", "--gateway-tunnel",
             f"https://{between.address}/"],
            env={"PATH": os.environ["PATH"], "SSL_CERT_FILE": str(site.cluster.directory.ca),
                 "SECRET": site.secret(site.busybox)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout
        line = next(one for one in process.stdout if "certificate" in one.lower())
        process.kill()  # it would wait for a tunnel first
        process.communicate(timeout=DEADLINE)
    assert line and between.tried and between.received == b""

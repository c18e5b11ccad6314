"""``arvados-client open``: the address under which a port of a container can be opened in a browser.

Owns the choice: the site's own address of the port, where it has one, else a forwarded port of this machine.
"""

from __future__ import annotations

import argparse
from typing import Any

from arv_ssh.client import settings
from arv_ssh.client.controller import Controller
from arv_ssh.client.messages import tell
from arv_ssh.client.targets import resolve
from arv_ssh.errors import BadRequest, Unavailable, Unprocessable, UsageError
from arv_ssh.net.upgrade import quote
from proxycommand.forward import forward_until_interrupted

_CONTAINER = quote('["uuid","state","published_ports"]')


def run(options: argparse.Namespace) -> int:
    """Print the port's URL; without one of the site's, forward a port until Ctrl-C."""
    port = _port(options.port)
    site = settings.load(options.settings, target=options.uuid)
    controller = Controller(site)
    container = resolve(controller, options.uuid)
    entry = _published(controller, container, port)
    if url := str(entry.get("initial_url") or entry.get("base_url") or ""):
        _show_sites(url, entry, site.token if options.with_token else "")
        return 0
    # Late: paramiko takes 200 ms to import.
    from arv_ssh.client.forward import LocalForwarding

    path = _shown(str(entry.get("initial_path") or "").lstrip("/"))
    forwarding = LocalForwarding(
        options.uuid, [(0, ("localhost", port))], user=options.user, settings_file=options.settings
    )
    forward_until_interrupted(forwarding, lambda ports: print(f"http://127.0.0.1:{ports[0]}/{path}", flush=True))
    return 0


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) <= 65535):
        raise UsageError(f"{text!r} is not a port; give a number from 1 to 65535")
    return int(text)


def _published(controller: Controller, container: str, port: int) -> dict[str, Any]:
    """Return what the container's record says of the port; {} where it is not published."""
    try:
        record = controller.get(f"containers/{container}?select={_CONTAINER}", "container", container)
    except (BadRequest, Unprocessable):
        return {}  # an Arvados from before there were published ports
    if record.get("state") != "Running":
        raise Unavailable(f"container {container} is {record.get('state')}, not Running; its ports cannot be opened")
    ports = record.get("published_ports")
    entry = ports.get(str(port)) if isinstance(ports, dict) else None
    return entry if isinstance(entry, dict) else {}


def _show_sites(url: str, entry: dict[str, Any], token: str) -> None:
    """Print the site's URL; a private port needs the token once, which is nothing to show unasked."""
    if entry.get("access") == "public":
        print(_shown(url))
    elif token:
        print(_shown(with_token(url, token)))
    else:
        print(_shown(url))
        tell("this port is private: open it from Workbench, or print the address with your token in it (--with-token)")


def with_token(url: str, token: str) -> str:
    """Return ``url`` with the token in its query; the page's scripts would see it in a fragment, which others write."""
    address, mark, fragment = url.partition("#")
    return f"{address}{'&' if '?' in address else '?'}arvados_api_token={quote(token)}{mark}{fragment}"


def _shown(url: str) -> str:
    """Return ``url`` without what a terminal would act on: whoever submitted the container has written its path."""
    encoded = url.encode("utf-8", "surrogatepass")
    return "".join(chr(byte) if ord("!") <= byte <= ord("~") else f"%{byte:02X}" for byte in encoded)

"""A controller's metrics in Prometheus' text format, for its own process and those beside it.

Owns the metrics and their names, in a registry of its own. Bytes and open sessions are read on request: a packet costs
nothing. Each process's samples carry its pid, so a restarted process begins its counters afresh.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from arv_ssh.audit.trail import Trail
from arv_ssh.controller.peers import peer_client
from arv_ssh.controller.peers.peers import Peers
from arv_ssh.controller.process import management
from arv_ssh.controller.shell.sessions import Attempt, LiveConnection, Observer, Sessions
from arv_ssh.errors import HttpError
from arv_ssh.log import event
from arv_ssh.net.http_messages import Request, Response

logger = logging.getLogger(__name__)

PATH = "/metrics"
OWN = "own"
"""The query by which one process asks another for that one's metrics alone."""
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""The histograms' buckets; a session takes some 50 ms to begin on an idle machine."""
OPENED = "opened"

class SessionMetrics(Observer, Collector):
    """Counts the sessions of one process, and the records its audit lost."""

    def __init__(self, sessions: Sessions, trail: Trail) -> None:
        self._sessions = sessions
        self._trail = trail
        self._closed_bytes = [0, 0]
        self._without_bytes: set[LiveConnection] = set()
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "arv_ssh_session_requests", "Requests for a session, by outcome: opened, or the status of the refusal.",
            ["result"], registry=self._registry,
        )  # fmt: skip
        self._closed = Counter(
            "arv_ssh_sessions_closed", "Ended sessions, by reason.", ["reason"], registry=self._registry
        )
        self._handshake = Histogram(
            "arv_ssh_handshake_seconds", "From the request for a session to its 101.", buckets=SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._lost = Counter(
            "arv_ssh_sessions_lost", "Connections lost by sessions that can be resumed.", registry=self._registry
        )
        self._resumed = Counter(
            "arv_ssh_sessions_resumed", "Sessions that went on here by a new connection.", registry=self._registry
        )
        self._first_byte = Histogram(
            "arv_ssh_first_byte_seconds", "From the request for a session to the gateway's first byte of SSH.",
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._dial_failures = Counter(
            "arv_ssh_gateway_dial_failures", "Gateways that could not be reached or trusted, by cause.", ["cause"],
            registry=self._registry,
        )  # fmt: skip
        self._registry.register(self)
        sessions.observe(self)
        ProcessCollector(registry=self._registry)

    # The observer of sessions.

    def refused(self, attempt: Attempt, error: HttpError) -> None:
        self._requests.labels(str(error.status)).inc()
        if error.dial_failure:
            self._dial_failures.labels(error.dial_failure).inc()

    def opened(self, session: LiveConnection) -> None:
        self._requests.labels(OPENED).inc()
        self._handshake.observe(session.seconds)
        self._without_bytes.add(session)

    def lost(self, session: LiveConnection, reason: str) -> None:
        self._lost.inc()

    def resumed(self, session: LiveConnection, known: bool) -> None:
        self._resumed.inc()

    def closed(self, session: LiveConnection, reason: str) -> None:
        self._closed.labels(reason.partition(":")[0]).inc()
        self._closed_bytes[0] += session.bytes_from_client
        self._closed_bytes[1] += session.bytes_to_client
        self._note_first_byte(session)
        self._without_bytes.discard(session)

    def _note_first_byte(self, session: LiveConnection) -> None:
        if session in self._without_bytes and session.first_byte_seconds is not None:
            self._without_bytes.discard(session)
            self._first_byte.observe(session.first_byte_seconds)

    # Read on request.

    def collect(self) -> Iterator[Metric]:
        live = list(self._sessions)
        yield GaugeMetricFamily("arv_ssh_open_sessions", "Sessions open now.", value=len(live))
        waiting = sum(one.waiting_since is not None for one in live)
        yield GaugeMetricFamily("arv_ssh_waiting_sessions", "Those of them without a connection.", value=waiting)
        counted = CounterMetricFamily("arv_ssh_session_bytes", "Bytes of SSH relayed.", labels=["direction"])
        counted.add_metric(["from_client"], self._closed_bytes[0] + sum(one.bytes_from_client for one in live))
        counted.add_metric(["to_client"], self._closed_bytes[1] + sum(one.bytes_to_client for one in live))
        yield counted
        yield CounterMetricFamily(
            "arv_ssh_audit_records_lost", "Audit records that the disk did not take in time.", value=self._trail.lost
        )
        yield GaugeMetricFamily("arv_ssh_controller_up", "1 for a controller process that answers.", value=1)

    def families(self) -> list[Metric]:
        """Return all metrics of this process."""
        for session in list(self._without_bytes):
            self._note_first_byte(session)
            if session.closed.is_set():
                self._without_bytes.discard(session)  # it goes on by another connection
        return list(self._registry.collect())


class MetricsEndpoint:
    """Answers ``GET /metrics`` with the metrics of this process and of the others of this host."""

    def __init__(self, metrics: SessionMetrics, peers: Peers, management_token: str) -> None:
        self._metrics = metrics
        self._peers = peers
        self._management_token = management_token

    async def handle(self, request: Request) -> Response:
        """Answer one request; raises the error to answer with."""
        management.check(request, self._management_token)
        own = _labelled(self._metrics.families(), str(os.getpid()))
        others = [] if request.query == OWN else await self._others()
        return Response(200, generate_latest(_Merged([own, *others])), CONTENT_TYPE_PLAIN_0_0_4)

    async def _others(self) -> list[list[Metric]]:
        siblings = await asyncio.to_thread(self._peers.siblings)
        return list(await asyncio.gather(*map(self._other, siblings)))

    async def _other(self, sibling: Path) -> list[Metric]:
        """Return another process's own metrics, or the fact that it does not answer."""
        try:
            status, body = await peer_client.get(sibling, f"{PATH}?{OWN}", self._management_token)
            if status == 200:
                return list(text_string_to_metric_families(body.decode()))
            failure = f"status {status}"
        except (OSError, HttpError, ValueError) as error:
            failure = str(error) or type(error).__name__
        event(logger, "another controller process reports no metrics", level=logging.WARNING, socket=str(sibling),
              error=failure)  # fmt: skip
        down = GaugeMetricFamily("arv_ssh_controller_up", "1 for a controller process that answers.", value=0)
        return _labelled([down], sibling.name.split("-")[1])


class _Merged(Collector):
    """Families of several processes, those of one name together, as the text format wants them."""

    def __init__(self, parts: Iterable[Iterable[Metric]]) -> None:
        self._families: dict[str, Metric] = {}
        for metric in (metric for part in parts for metric in part):
            family = self._families.setdefault(
                metric.name, Metric(metric.name, metric.documentation, metric.type, metric.unit)
            )
            family.samples += metric.samples

    def collect(self) -> Iterable[Metric]:
        return self._families.values()


def _labelled(families: Iterable[Metric], pid: str) -> list[Metric]:
    found = []
    for family in families:
        labelled = Metric(family.name, family.documentation, family.type, family.unit)
        labelled.samples = [
            one._replace(labels={**one.labels, "pid": pid})
            for one in family.samples
            if not one.name.endswith("_created")  # a counter's start, which a scrape every minute shows too
        ]
        found.append(labelled)
    return found

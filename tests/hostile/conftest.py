"""A cluster of this directory's own: its gateways are grown on purpose."""

from tests.integration.conftest import busybox, cluster, ssh

__all__ = ["busybox", "cluster", "ssh"]

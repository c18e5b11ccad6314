"""A session at the controller: its beginning, its place among others, its end, its audit.

Owns the registry of open sessions and every reason for which one is refused or ended. Must not know how a gateway is
reached (``gateways``), nor which sockets requests come from (``process``).
"""

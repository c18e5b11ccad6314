"""The embedded API: a small Arvados-compatible API in the controller's own process, for a cluster on one machine."""

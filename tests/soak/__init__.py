"""Soak: mixed work for a long time, and then everything as before (scripts/soak)."""

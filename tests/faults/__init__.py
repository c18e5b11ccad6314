"""One fault at a time, in every phase of a session: what the user reads, when, what is left (docs/reliability.md)."""

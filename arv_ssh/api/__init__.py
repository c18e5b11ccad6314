"""The Arvados API as a client sees it."""

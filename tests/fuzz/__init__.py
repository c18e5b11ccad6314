"""Fuzzing: each reader of what others write, fed with bytes that nobody meant (scripts/fuzz)."""

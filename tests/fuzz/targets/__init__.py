"""The targets. Each module owns the readers of one kind of peer, and says of each what its oracle is."""

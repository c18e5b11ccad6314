"""The benchmarks of ``scripts/bench``: arv-ssh beside stock tools on the same machine. No test asks them anything."""

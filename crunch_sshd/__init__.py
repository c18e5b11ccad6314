"""The gateway: an SSH server that executes into one running container, and crunch-run, which runs that container."""

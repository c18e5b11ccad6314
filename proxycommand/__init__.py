"""The client: what a user's own machine runs. Stock OpenSSH starts ``arvados-client ssh-proxy`` as its ProxyCommand."""

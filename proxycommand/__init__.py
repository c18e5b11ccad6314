"""The client, on a user's own machine. Stock OpenSSH starts ``arvados-client ssh-proxy`` as its ProxyCommand."""

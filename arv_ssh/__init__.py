"""arv-ssh: shell access to running Arvados containers with stock OpenSSH.

Importing this package imports nothing else: ssh-proxy starts on every connection and pays for each import.
"""

__version__ = "0.1.0"

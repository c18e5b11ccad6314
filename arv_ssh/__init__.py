"""arv-ssh: shell access to running Arvados containers with stock OpenSSH.

For scripts and notebooks: :func:`connect` gives a connected ``paramiko.SSHClient``, :func:`forward` a local port that
leads into a container (docs/python.md).

Importing this package imports nothing else: ssh-proxy starts on every connection and pays for each import.
"""

__version__ = "0.1.0"
__all__ = ["__version__", "connect", "forward"]

TYPE_CHECKING = False  # type checkers know the name without typing, which takes 4 ms to import
if TYPE_CHECKING:
    from arv_ssh.client.connect import connect
    from arv_ssh.client.forward import forward


_LAZY = {"connect": "arv_ssh.client.connect", "forward": "arv_ssh.client.forward"}


def __getattr__(name: str) -> object:
    """Import what scripts use when they first name it."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)

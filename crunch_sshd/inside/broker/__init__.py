"""The broker: one process for each SSH connection that makes sockets inside the container, as the session's user.

Owns everything that must happen in the container's network and mount namespaces: looking up names, connecting,
listening. The broker hands the sockets to the gateway, which moves the data; the broker never sees a byte of it.
:mod:`crunch_sshd.forwarding.broker` is the gateway's side; ``process`` is the child's, and what it uses: ``dial``,
``listen``, ``resolver`` and the pure ``dns`` and ``resolv_conf``.
"""

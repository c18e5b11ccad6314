"""yamux, the stream multiplexer inside a gateway tunnel (hashicorp/yamux, spec.md, version 0).

``frames`` reads and writes headers, ``core`` is one end of a connection as a state machine without I/O, ``transport``
joins it to an event loop: each stream is an ``asyncio.Transport``.
"""

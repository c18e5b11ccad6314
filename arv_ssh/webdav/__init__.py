"""One directory, read-only, by WebDAV (RFC 4918, class 1): what a container's logs are served with.

:mod:`arv_ssh.webdav.server` answers requests; the other modules are the parts that it is made of.
"""

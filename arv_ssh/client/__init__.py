"""The user's side of a session as a library: settings, the controller's answer, and the bytes in between.

What ``arvados-client`` and a script's ``arv_ssh.connect()`` share. Nothing in here reads a command line, and what
ssh-proxy needs of it is light: it starts on every connection.
"""

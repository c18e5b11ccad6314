"""Our gateway beside a stock crunch-run: the program that a site puts in its place, and the sidecar that it starts.

Owns the way from a dispatcher's call to stock's, unchanged, and the processes that then serve the container's sessions.
Nothing in here may keep, change or end the job: whatever fails, stock runs as if it had been called itself.
"""

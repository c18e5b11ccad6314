"""The controller: the shell endpoint, and on an embedded cluster the API too."""

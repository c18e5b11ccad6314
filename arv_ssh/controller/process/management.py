"""Who may ask for a controller's health and metrics: holders of the cluster's ManagementToken, as in all of Arvados."""

from __future__ import annotations

from arv_ssh.errors import Forbidden, NotFound, Unauthorized
from arv_ssh.net.http_messages import Request
from arv_ssh.trust import credentials


def check(request: Request, management_token: str) -> None:
    """Raise the error to answer with unless ``request`` carries the token (statuses as in Arvados' own services)."""
    if not management_token:
        raise NotFound(f"{request.path} is switched off: the cluster's config has no ManagementToken")
    if not request.token():
        raise Unauthorized(f"{request.path} needs the cluster's ManagementToken as a Bearer token, and none was sent")
    if not credentials.matches(request.token(), management_token):
        raise Forbidden(f"{request.path} needs the cluster's ManagementToken, and another token was sent")

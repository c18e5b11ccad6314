"""All targets, by name. The process that runs one imports its module alone: instrumenting them all takes a minute."""

from tests.fuzz.harness import Target
from tests.fuzz.targets import configuration, container_files, engine, http, kernel, sftp, ssh, web_services, yamux

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (http, yamux, sftp, ssh, engine, container_files, kernel, configuration, web_services)
    for target in module.TARGETS
}

"""The targets, by name. Each module owns the readers of one kind of peer and says what its oracle is."""

from tests.fuzz.harness import Target
from tests.fuzz.targets import configuration, container_files, engine, http, kernel, sftp, ssh, yamux

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (http, yamux, sftp, ssh, engine, container_files, kernel, configuration)
    for target in module.TARGETS
}

# The Docker engine of the scripts; sourced by them, with $root set to the repository.
#
# Uses the engine that answers this user (DOCKER_HOST counts). If none does, starts Debian's as root, in the
# background and with its own pid file, so that only what was started here is stopped later.

engine_pid_file=/run/arv-ssh-dockerd.pid
engine_log=/var/log/arv-ssh-dockerd.log
engine_started=
engine_wait=60 # seconds for the engine to start or stop; a cold one takes two to ten

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

is_debian() {
    [ -e /etc/debian_version ] && command -v apt-get >/dev/null
}

# Install Debian packages; the first argument says what they are for.
install_packages() {
    what=$1
    shift
    if ! is_debian; then
        fail "$what is missing; install it with your distribution's packages (in Debian they are called: $*)"
    fi
    if [ "$(id -u)" != 0 ]; then
        fail "$what is missing; run as root: apt-get install --no-install-recommends $*"
    fi
    echo "installing $*" >&2
    [ -n "$(ls /var/lib/apt/lists/*_Packages* 2>/dev/null)" ] || apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y -o Dpkg::Use-Pty=0 --no-install-recommends "$@" >&2 </dev/null ||
        fail "apt-get could not install $*; its messages are above"
}

engine_answers() {
    "$root/.venv/bin/python" -c '
from arv_ssh.errors import ArvSshError
from crunch_sshd.runtimes.docker_engine import connect
try:
    connect().close()
except ArvSshError as error:
    raise SystemExit(1) from error
' 2>/dev/null
}

engine_pid() {
    pid=$(cat "$engine_pid_file" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ] && echo "$pid"
}

# Start an engine unless one answers; sets engine_started when it did.
engine_start() {
    engine_answers && return
    if [ -n "${DOCKER_HOST:-}" ]; then
        fail "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST; start it, or unset DOCKER_HOST"
    fi
    if ! is_debian; then
        fail "no Docker engine answers to $(id -un); install and start Docker (or Podman, with DOCKER_HOST set to its" \
            "socket), and let $(id -un) use it"
    fi
    if [ "$(id -u)" != 0 ]; then
        fail "no Docker engine answers to $(id -un); run scripts/setup as root, or have an administrator install" \
            "docker.io and add $(id -un) to the group docker"
    fi
    command -v dockerd >/dev/null && command -v iptables >/dev/null ||
        install_packages "the Docker engine" docker.io iptables
    # Debian's package starts the engine itself where there is an init system to ask.
    engine_answers && return
    engine_launch
}

engine_launch() {
    engine_pid >/dev/null || rm -f "$engine_pid_file"
    echo "starting dockerd (log: $engine_log)" >&2
    # A session of its own: Ctrl-C in this terminal is for the scripts.
    setsid dockerd --pidfile "$engine_pid_file" >"$engine_log" 2>&1 </dev/null &
    launched=$!
    engine_started=yes
    deadline=$((SECONDS + engine_wait))
    until engine_answers; do
        if ! kill -0 "$launched" 2>/dev/null; then
            tail -n 5 "$engine_log" >&2
            fail "dockerd ended instead of starting; the end of its log, $engine_log, is above"
        fi
        [ "$SECONDS" -lt "$deadline" ] || fail "dockerd does not answer after $engine_wait s; see $engine_log"
        sleep 0.2
    done
}

# Stop the engine that engine_launch started, its containers included; any other engine is left alone.
engine_stop() {
    pid=$(engine_pid) || return 0
    echo "stopping dockerd" >&2
    kill -TERM "$pid"
    deadline=$((SECONDS + engine_wait))
    while [ "$(engine_pid)" = "$pid" ]; do
        [ "$SECONDS" -lt "$deadline" ] || fail "dockerd (pid $pid) is still running after $engine_wait s; see $engine_log"
        sleep 0.2
    done
}

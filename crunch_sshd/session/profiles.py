"""The argument vector of a login shell that keeps the container's environment. Pure.

Owns the one thing in which a session's shell differs from sshd's: the system's profile resets PATH on Debian, SUSE and
others, for users who begin with nothing; a container's user begins with what the image's author and the container
request have set. So the profile may add to that, but takes nothing away; the user's own profile may do anything.

The shell itself reads both files and then becomes the interactive shell, as the shells in a desktop's terminals do:
the profile's variables, umask and limits are there, its aliases and functions belong in ~/.bashrc or $ENV. Nothing can
do the same within one login shell: no shell lets anything come between the two files, or after the last.
"""

from __future__ import annotations

import os

BASH = "bash"
FILES = {name: (".profile",) for name in ("sh", "ash", "dash", "ksh", "ksh93", "mksh", "lksh", "yash")} | {
    BASH: (".bash_profile", ".bash_login", ".profile")
}
"""The shells that read /etc/profile, and of which files of the user's they read the first one that is there."""

SYSTEM_PROFILE = r"""
_arv_env=$(export -p) _arv_path=${PATH-}
if [ -r /etc/profile ]; then command . /etc/profile; fi
case :${PATH-}: in
*:"$_arv_path":*) _arv_path=${PATH-} ;;
*)  set -f
    IFS=:
    for _arv_place in ${PATH-}; do
        case :$_arv_path: in *:"$_arv_place":*) ;; *) _arv_path=${_arv_path:+$_arv_path:}$_arv_place ;; esac
    done
    unset IFS
    set +f ;;
esac
command eval "$_arv_env"
command export PATH="$_arv_path"
"""
"""Reads the system's profile. Exported variables get back their values; PATH keeps what was added, behind the rest.

``command`` keeps an error in that file from ending the shell: a login shell would go on too (POSIX, 2.14).
"""
USERS_PROFILE = r"""
for _arv_file in %s; do
    if [ -r "$HOME/$_arv_file" ]; then command . "$HOME/$_arv_file"; break; fi
done
"""
BECOME = 'unset SHLVL; exec "$0"\n'
"""(Not every shell knows that the one it becomes is no deeper than itself.)"""
BECOME_BASH = 'if [ -t 0 ]; then exec "$0"; fi; exec "$0" --noprofile -l\n'
"""Without a terminal bash has nothing more to read, so it can be a login shell by its own account."""


def login_shell(shell: str) -> list[str]:
    """Return the vector of ``shell`` as a login shell."""
    name = os.path.basename(shell)
    files = FILES.get(name)
    if files is None:
        return [shell, "-l"]
    script = SYSTEM_PROFILE + USERS_PROFILE % " ".join(files)
    if name == BASH:
        return [shell, "--norc", "-c", script + BECOME_BASH, shell]
    return [shell, "-c", script + BECOME, shell]

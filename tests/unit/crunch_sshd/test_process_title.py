import subprocess
import sys

PROGRAM = """
from pathlib import Path
from crunch_sshd import process_title
process_title.set_title("crunch-run", "some container")
print(Path("/proc/self/cmdline").read_bytes().strip(bytes(1)).decode(), Path("/proc/self/comm").read_text(), end="")
"""


def test_the_name_has_no_space() -> None:
    """ps shows the whole title, and the kernel's name is one word, so that /proc/PID/stat can be read word by word."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "crunch-run some container crunch-run\n"

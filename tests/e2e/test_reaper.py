"""Programs end with the process that started them, even if that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.e2e.sandbox import ROOT

SECONDS = 60

# It starts two programs, in a session of their own and in its own, names them, and hangs.
_RUN = """
import subprocess, sys, time
from tests.e2e.reaper import end_with_us
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
for alone in (True, False):
    child = subprocess.Popen(sleep, stdout=int(sys.argv[1]), start_new_session=alone)
    end_with_us(child.pid)
end_with_us(2**22 + 1)  # which is no process
print("started", flush=True)
time.sleep(600)
"""


def test_programs_end_with_a_killed_run() -> None:
    ended, held = os.pipe()  # its end is read when all who hold the other one are gone
    with os.fdopen(ended, "rb") as until:
        run = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(held)],
            stdout=subprocess.PIPE,
            pass_fds=[held],
            cwd=ROOT,
        )
        os.close(held)
        assert run.stdout is not None
        assert run.stdout.readline() == b"started\n"
        run.send_signal(signal.SIGKILL)
        run.communicate(timeout=SECONDS)
        signal.alarm(SECONDS)
        try:
            assert until.read() == b""
        finally:
            signal.alarm(0)

# SPDX-License-Identifier: GPL-2.0-or-later
"""One thread of another process, as its tracer has it: stopped while the others run, or not gone when its process was killed.

    stopped = TracedThread(tid, is_stopped=True)   # until let_go(), or until its process is killed
    undying = TracedThread(tid)                    # runs on; when its process is killed, something of it stays until let_go()
"""

import ctypes
import os
import signal
import threading
import time

_CONT, _DETACH, _SEIZE, _INTERRUPT = 7, 17, 0x4206, 0x4207
_WALL = 0x40000000


class TracedThread:
    def __init__(self, tid, *, is_stopped=False):
        self.tid = tid
        self.is_stopped = is_stopped
        self._is_released = threading.Event()
        self._is_held = threading.Event()
        self._error = 0
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        self._tracer = threading.Thread(target=self._run, name="tracer", daemon=True)  # for the kernel a tracer is a thread
        self._tracer.start()
        self._is_held.wait(10)
        if self._error:
            raise OSError(self._error, f"tracing {tid}: {os.strerror(self._error)}")

    def let_go(self):
        self._is_released.set()
        self._tracer.join(20)

    # -- the tracer

    def _ask(self, request, value=0):
        return self._libc.ptrace(request, self.tid, None, value)

    def _run(self):
        if self._ask(_SEIZE) != 0:
            self._error = ctypes.get_errno()
            self._is_held.set()
            return
        if self.is_stopped:
            self._ask(_INTERRUPT)
        else:
            self._is_held.set()
        is_interrupted = self.is_stopped
        while True:
            seen = os.waitid(os.P_PID, self.tid, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT | _WALL)
            is_released = self._is_released.is_set()
            if seen is None:
                if is_released and not is_interrupted:
                    self._ask(_INTERRUPT)
                    is_interrupted = True
                time.sleep(0.005)
            elif seen.si_code not in (os.CLD_TRAPPED, os.CLD_STOPPED):  # it has ended
                if is_released or self.is_stopped:
                    os.waitpid(self.tid, _WALL)
                    return
                time.sleep(0.005)
            elif is_released:
                os.waitpid(self.tid, _WALL)
                self._ask(_DETACH)
                return
            elif self.is_stopped:
                self._is_held.set()
                time.sleep(0.005)
            else:
                os.waitpid(self.tid, _WALL)
                is_signal = seen.si_status >> 8 == 0 and seen.si_status != signal.SIGTRAP
                self._ask(_CONT, seen.si_status if is_signal else 0)


__all__ = ["TracedThread"]

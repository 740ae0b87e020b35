import os
import socket
import subprocess
import sys

import pytest

from deployments.machine.ports import listen
from ftlib.errors import BusyError, RecipeError


def test_a_port_that_is_held_is_refused_by_its_holders_name_or_passed_over():
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(BusyError, match=rf"--port: {port} is held by process {os.getpid()} \("):
            listen(port)
        with listen(None, before=port, first=port) as other:
            assert port < other.getsockname()[1] <= port + 200
            assert other.getsockname()[0] == "127.0.0.1"
    with listen(None, before=port) as again:  # free again: it is the same as before
        assert again.getsockname()[1] == port


def test_the_holder_is_one_line_whatever_its_command_is():
    program = (
        "import socket, time\nheld = socket.create_server(('127.0.0.1', 0))\n"
        "print(held.getsockname()[1], flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        port = int(other.stdout.readline())
        try:
            with pytest.raises(BusyError) as said:
                listen(port)
        finally:
            other.kill()
    assert f"process {other.pid} (" in str(said.value)
    assert str(said.value).isprintable()


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid"])
def test_a_host_that_is_not_here_is_refused(host: str):
    with pytest.raises(RecipeError, match=f"--host: '{host}' is no address of this machine"):
        listen(None, host=host)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port_is_refused(port: int):
    with pytest.raises(RecipeError, match=rf"got {port}, allowed are 1 to 65535"):
        listen(port)

"""The guard of conftest.py: no test, no child process and no notebook reaches beyond this machine."""

import json
import socket
import subprocess
import sys

import pytest
from conftest import write_notebook

# 192.0.2.0/24 is reserved for documentation: nobody is there, even if the guard fails.
TRIES = """
import socket
def tcp(host): socket.create_connection((host, 9), timeout=1)
def quiet(host): socket.socket().connect_ex((host, 9))
def udp(host): socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", (host, 9))
def name(host): socket.getaddrinfo("example.com" if host[0].isdigit() else host, 80)
refused = 0
for attempt in (tcp, quiet, udp, name):
    try:
        attempt("192.0.2.1")
    except PermissionError:
        refused += 1
print("refused", refused)
"""


@pytest.fixture
def expected(refused):
    """For tests that knock on purpose: what was written down is returned, and forgotten afterwards."""
    yield refused
    refused.write_text("")


def test_this_process_is_refused_and_it_is_written_down(expected, capsys):
    exec(TRIES, {})
    assert capsys.readouterr().out == "refused 4\n"
    assert len(expected.read_text().splitlines()) == 4


def test_libraries_above_sockets_are_refused_too(expected):
    from urllib.error import URLError
    from urllib.request import urlopen
    with pytest.raises((URLError, PermissionError), match="no network"):
        urlopen("http://192.0.2.1/", timeout=1)


def test_this_machine_may_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5).close()
    one, other = socket.socketpair()  # AF_UNIX
    one.close(), other.close()


def test_a_child_process_and_its_child_are_refused(expected, tmp_path):
    file = tmp_path / "tries.py"
    file.write_text(TRIES)
    command = f"import subprocess, sys; subprocess.run([sys.executable, {str(file)!r}], check=True)"
    printed = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    assert printed == "refused 4\n"
    assert "tries.py" in expected.read_text()


def test_a_notebook_is_refused(expected, tmp_path):
    import papermill
    notebook = write_notebook(tmp_path / "tries.ipynb", [("markdown", "tries"), ("code", TRIES)])
    papermill.execute_notebook(str(notebook), str(tmp_path / "out.ipynb"), kernel_name="python3", progress_bar=False,
                               extra_arguments=["--IPKernelApp.log_level=40"])
    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    assert "".join(cells[-1]["outputs"][0]["text"]) == "refused 4\n"
    assert len(expected.read_text().splitlines()) == 4

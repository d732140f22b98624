"""Notebook 04 with a real judge: `transformers serve` around a mini model on loopback, killed in the middle, and no key left behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from conftest import Project
from judge_model import train

from hippo_utils import paths, records

KEY = "sk-planted-in-the-environment-0123456789"
ORDERS, INJECTED, REPEATED, IN_FLIGHT = 1, 2, 3, 2


@pytest.fixture(scope="module")
def server(tiny_run, tmp_path_factory):
    """(address, model name, log file) of a server that was started here."""
    folder = tmp_path_factory.mktemp("server")
    model = train(folder / "model", records.read("candidates", tiny_run.outputs("01_corpus") / "candidates.parquet"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = folder / "log.txt"
    process = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT, env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.2)
            assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}/v1", model, log
    finally:
        process.kill()
        process.wait()


def start(project: Project, server) -> subprocess.Popen:
    """Notebook 04 of the run `tiny`, by papermill, with the judge behind the server."""
    url, model, _ = server
    file = project.home / "judged.yaml"
    file.write_text(yaml.safe_dump({"extends": "tiny", "run": "tiny", "preference": {
        "judge": "endpoint", "orders": "one", "injected": INJECTED, "repeated": REPEATED,
        "endpoint": {"model": model, "base_url": url, "key_variable": "JUDGE_KEY", "in_flight": IN_FLIGHT, "request": {"max_tokens": 20}}}}))
    command = [sys.executable, "-m", "papermill", str(project.notebook("04_preference")), str(project.outputs("04_preference") / "04_preference.ipynb"),
               "-f", str(file), "-k", "python3", "--no-progress-bar"]
    return subprocess.Popen(command, env=project.environment(), cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> None:
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said


def posts(log) -> int:
    return log.read_text().count("POST /v1/chat/completions")


@pytest.mark.slow
@pytest.mark.tail
@pytest.mark.timeout(3000)
def test_04_is_killed_while_it_judges_and_ends_with_the_pairs_of_an_uninterrupted_run(tiny_run, server, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    project, whole = tiny_run.copy(tmp_path / "killed"), tiny_run.copy(tmp_path / "whole")
    count = len(records.read("candidates", project.outputs("01_corpus") / "candidates.parquet"))
    askings = count * ORDERS + REPEATED
    folder = project.home / "outputs" / paths.replies("x").parent.name

    process = start(project, server)
    while sum(len(file.read_text().splitlines()) for file in folder.glob("*")) < count // 3:
        time.sleep(0.01)
        assert process.poll() is None, process.communicate()[0]
    for victim in [*psutil.Process(process.pid).children(recursive=True), process]:  # the kernel first
        victim.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(3)  # the server ends what was in flight
    stored = len(next(folder.glob("*")).read_text().splitlines())
    assert count // 3 <= stored < count
    assert not (project.outputs("04_preference") / "manifest.json").exists()

    finish(start(project, server))
    executed = (project.outputs("04_preference") / "04_preference.ipynb").read_text()
    assert f"{askings} askings, {stored} stored, {askings - stored} to ask" in executed
    made = len(next(folder.glob("*")).read_text().splitlines())
    assert made <= posts(server[2]) <= made + IN_FLIGHT, "at most what was in flight was asked again"

    before = posts(server[2])
    finish(start(whole, server))
    assert posts(server[2]) - before == made, "a folder of its own, so everything was asked"
    for name in ("verdicts", "preferences"):
        kind = name.removesuffix("s")
        ended, expected = (records.read(kind, made.outputs("04_preference") / f"{name}.parquet") for made in (project, whole))
        assert ended.equals(expected) and len(ended) >= count
    assert project.figures().joinpath("table_preferences.csv").read_bytes() == whole.figures().joinpath("table_preferences.csv").read_bytes()

    files = [file for folder in (tmp_path, server[2].parent) for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 200 and not [file for file in files if KEY.encode() in file.read_bytes()]
    judged = (project.figures() / "table_audit.csv").read_text() + (project.figures() / "table_injections.csv").read_text()
    assert re.search(r"said the same when asked again,questions asked twice,3,1,", judged) and "fake_json,2," in judged

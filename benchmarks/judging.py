"""10,000 questions with three answers, a judge behind HTTP that takes 50 ms: how fast, how many requests at once, how much memory?

    python benchmarks/judging.py [--questions 10000] [--in-flight 32] [--delay 0.05] [--orders one]

The server is a process of its own on this machine (asyncio, about the least that speaks HTTP), so that its memory and time
are not the judge's. Reported: seconds, requests per second beside what the delay alone would allow, the most requests that
the server saw at once, peak memory of the asking process, and the same again from the stored replies.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import pandas as pd

from hippo_utils.judging import verdicts
from hippo_utils.judging.endpoint import EndpointJudge
from hippo_utils.params import Endpoint


def serve(port, most, delay: float) -> None:
    """Answer every request with the same verdict after `delay` seconds; `most` holds the largest number at once."""
    content = json.dumps({"notes": {"A": "clear", "B": "vague", "C": "wrong"}, "best": "A"})
    body = json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "m", "usage": {"prompt_tokens": 700, "completion_tokens": 30, "total_tokens": 730},
                       "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}]}).encode()
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    now = 0

    async def connection(reader, writer):
        nonlocal now
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
                await reader.readexactly(length)
                now += 1
                most.value = max(most.value, now)
                await asyncio.sleep(delay)
                now -= 1
                writer.write(reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main():
        server = await asyncio.start_server(connection, "127.0.0.1", 0)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(main())


def candidates(count: int) -> pd.DataFrame:
    """Questions and answers about as long as iCliniq's: 100 words and 80 to 200 words."""
    return pd.DataFrame([{"id": f"q{number:05d}", "prompt": f"Patient {number}: " + "I have had this pain for some weeks. " * 12, "fact_ids": [],
                          "answers": [f"Answer {number}, {k}: " + "Please see a doctor about this soon. " * length for k, length in enumerate((11, 20, 28))]}
                         for number in range(count)])


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--questions", type=int, default=10000)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds that the server takes for a reply")
    parser.add_argument("--orders", choices=["one", "reversed", "rotations", "all"], default="one")
    args = parser.parse_args()
    os.environ.setdefault("BENCHMARK_KEY", "none-needed")
    port, most = multiprocessing.Value("i", 0), multiprocessing.Value("i", 0)
    server = multiprocessing.Process(target=serve, args=(port, most, args.delay), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.01)
    rows = candidates(args.questions)
    with tempfile.TemporaryDirectory() as folder:
        lines = []
        for what in ("asked", "from the store"):
            judge = EndpointJudge(Endpoint(model="m", base_url=f"http://127.0.0.1:{port.value}/v1", key_variable="BENCHMARK_KEY", in_flight=args.in_flight), "clinician-1")
            before = os.times()
            start = time.perf_counter()
            made = verdicts.ask(judge, rows, template="clinician-1", task="best", orders=args.orders, store=Path(folder) / "replies.jsonl")
            seconds, after = time.perf_counter() - start, os.times()
            assert (made["outcome"] == "verdict").all()
            cpu = after.user + after.system - before.user - before.system
            lines.append(f"| {what} | {len(made)} | {seconds:.1f} | {cpu:.1f} | {len(made) / seconds:.0f} | {args.in_flight / args.delay:.0f} | {most.value} | {peak_mib():.0f} |")
        size = (Path(folder) / "replies.jsonl").stat().st_size / 2**20
    server.terminate()
    print("\n| | askings | seconds | of them CPU | per second | the delay allows | most at once | peak MiB |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(lines) + f"\n\nreplies on disk: {size:.1f} MiB")


if __name__ == "__main__":
    main()

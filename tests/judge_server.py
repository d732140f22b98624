"""An OpenAI-compatible chat endpoint on loopback for the tests: it judges by content, on order misbehaves, and writes down what it was asked.

Its verdict depends on the answers and not on their places, so that agreement over orders is total unless a test asks otherwise.
"""

import hashlib
import itertools
import json
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REQUESTS = itertools.count()
ANSWER = re.compile(r"<answer ([A-J]) (\w+)>\n(.*?)\n</answer \1 \2>", re.DOTALL)


def best_of(prompt: str) -> str:
    """The letter of the answer with the smallest hash."""
    return min(ANSWER.findall(prompt), key=lambda found: hashlib.sha256(found[2].encode()).digest())[0]


def verdict(body: dict) -> str:
    return json.dumps({"notes": {"A": "as read"}, "best": best_of(body["messages"][-1]["content"])})


def anesthesia(body: dict) -> str:
    """A generator and judge in Chinese: a task on the topic that the request names, another at each request; or five aspects of one."""
    asked = body["messages"][-1]["content"]
    if "coherence" in asked:
        score = len(re.search(r"第(\w+)题", asked)[1]) % 2 * 3 + 5
        return json.dumps(dict.fromkeys(("coherence", "professionalism", "usefulness", "friendliness"), score) | {"harmlessness": 2 if "毒" in asked.split("<row")[1] else 9})
    topic = re.findall(r"^主题：(\S+)$", asked, re.M)[-1]
    number = hashlib.sha256(f"{next(REQUESTS)}".encode()).hexdigest()
    return f"主题：{topic}\n问：第{number[:4 + int(number[4], 16) % 2]}题：{topic}如何处理？\n答：按指南处理，剂量 2 mg/kg。\n\n主题：下一个"


class ChatServer(ThreadingHTTPServer):
    """`content(body)` is what it replies; `fault(body, times)` names a misbehaviour for the `times`-th request with this body (from 0)."""
    daemon_threads, request_queue_size = True, 128

    def __init__(self, content=verdict, fault=lambda body, times: None, delay: float = 0.0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.fault, self.delay = content, fault, delay
        self.asked: list[tuple[float, str, str]] = []   # time, hash of the body, fault
        self.bodies: Counter = Counter()
        self.in_flight, self.most_in_flight, self.connections = 0, 0, 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def answered(self) -> Counter:
        """How often each body got a whole reply."""
        return Counter(body for _, body, fault in self.asked if not fault)

    def handle_error(self, request, address):
        """Clients that are killed break their connections off; that is what the tests want."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def log_message(self, *_): ...

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body, name = json.loads(raw), hashlib.sha256(raw).hexdigest()
        server = self.server
        with server.lock:
            fault = server.fault(body, server.bodies[name]) or ""
            server.bodies[name] += 1
            server.asked.append((time.time(), name, fault))
            server.in_flight += not fault.startswith("silence")  # the client has left long before that ends
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            time.sleep(server.delay)
            self.answer(body, fault)
        finally:
            with server.lock:
                server.in_flight -= not fault.startswith("silence")

    def answer(self, body: dict, fault: str) -> None:
        kind, _, value = fault.partition(" ")
        whole = completion(body, self.server.content(body))
        if kind == "":
            self.send(200, whole)
        elif kind.isdigit():  # "429 0.3": a status, with Retry-After
            said = {"error": {"message": f"no: {self.headers['Authorization']}", "code": value if not value.replace(".", "").isdigit() else None}}
            self.send(int(kind), said, **{"Retry-After": value} if value.replace(".", "").isdigit() else {})
        elif kind == "silence":
            time.sleep(float(value))
            self.close_connection = True
        elif kind == "half-body":
            self.send(200, whole, cut=0.5)
        elif kind == "half-json":
            self.send(200, json.dumps(whole)[:100])
        elif kind == "html":
            self.send(200, "<html><body>Bad gateway</body></html>", kind="text/html")
        elif kind == "hang-up":
            self.close_connection = True
        elif kind == "empty":
            self.send(200, {})
        elif kind == "prose":
            self.send(200, completion(body, "I would rather not say."))
        elif kind == "refusal":
            self.send(200, completion(body, None, refusal="I cannot help with medical questions."))
        elif kind == "cut-off":
            self.send(200, completion(body, self.server.content(body)[:15], finish_reason="length"))
        else:
            raise ValueError(fault)

    def send(self, status: int, content, *, kind: str = "application/json", cut: float = 1.0, **headers) -> None:
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:round(len(data) * cut)])
        self.close_connection |= cut < 1


def completion(body: dict, content: str | None, refusal: str | None = None, finish_reason: str = "stop") -> dict:
    message = {"role": "assistant", "content": content, "refusal": refusal}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 20, "total_tokens": 1020}}


@contextmanager
def serving(**options):
    """A running ChatServer."""
    server = ChatServer(**options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()

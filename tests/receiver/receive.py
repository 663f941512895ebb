"""A receiver of notifications: verifies them with the published `standardwebhooks` library, parses them with the CloudEvents SDK,
and keeps what it got. It ends when its standard input does.

usage: receive.py [--listen HOST:PORT] [--key whsec_KEY] [--say]

It prints its URL as one line of JSON. A message, POSTed to any path, is answered with 204, or with 400 if there is a key and the
message is not signed by it. With --say it prints each message for people, to standard error.

GET  /_/messages                                             what came, oldest first, as JSON
POST /_/answers  [{"status": 500, "retryAfter": 2, "times": 3}, {"hang": true}]
                                                             how the next messages are answered
POST /_/key      {"key": "whsec_…"}                          another key; null: none
"""

import argparse
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from standardwebhooks import Webhook, WebhookVerificationError

lock = threading.Lock()
messages, answers = [], []
ended = threading.Event()


def verified(key, body, headers):
    """Whether the message is signed by the key, and else why not. Neither without a key."""
    if key is None:
        return None, None
    try:
        Webhook(key).verify(body, headers, json_parse=False)
        return True, None
    except (WebhookVerificationError, ValueError) as problem:
        return False, str(problem)


def parsed(body, headers):
    """The CloudEvent as the SDK reads it, and else why it is none."""
    if not headers.get("content-type", "").startswith("application/cloudevents"):
        return None, None
    try:
        event = from_structured_event(HTTPMessage(headers, body))
    except Exception as problem:  # whatever the SDK dislikes
        return None, repr(problem)
    attributes = {name: value if isinstance(value, str) else value.isoformat() for name, value in event.get_attributes().items()}
    return {**attributes, "data": event.get_data()}, None


def said(message):
    """A message for people, in a line or two."""
    event = message["event"]
    if event is None:
        return f"told: {json.loads(message['body']).get('text')}"
    data = event["data"]
    requests = data.get("requests", {})
    signed = {True: "signed", False: "NOT SIGNED BY OUR KEY", None: "not verified"}[message["verified"]]
    lines = [f"told: {event['type']} of {event['subject']} ({signed})"]
    if requests:
        lines.append(f"      {requests['succeeded']} of {requests['total']} answered, {requests['failed']} failed, in {data['durationSeconds']} s")
    if "usage" in data:
        usage, cost = data["usage"], data.get("cost", {})
        spent = f", {cost['actualUSD']} USD (saved {cost['savedUSD']})" if "actualUSD" in cost else ""
        lines.append(f"      {usage.get('inputTokens', 0)} + {usage.get('outputTokens', 0)} tokens{spent}")
    if "results" in data:
        lines.append(f"      {data['results']['uri']}")
    return "\n".join(lines)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    key = None
    say = False

    def log_message(self, *_):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def answer(self, status, document=None, retry_after=None):
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        if retry_after is not None:
            self.send_header("retry-after", str(retry_after))
        if status != 204:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        with lock:
            self.answer(200, messages) if self.path == "/_/messages" else self.answer(404)

    def do_POST(self):
        body = self.body()
        if self.path == "/_/answers":
            with lock:
                answers[:] = [answer for wanted in json.loads(body) for answer in [wanted] * wanted.get("times", 1)]
            return self.answer(204)
        if self.path == "/_/key":
            Handler.key = json.loads(body)["key"]
            return self.answer(204)
        self.receive(body)

    def receive(self, body):
        headers = {name.lower(): value for name, value in self.headers.items()}
        is_signed, problem = verified(self.key, body, headers)
        event, unparsed = parsed(body, headers)
        message = {
            "path": self.path,
            "headers": headers,
            "body": body.decode(),
            "verified": is_signed,
            "event": event,
            "problem": problem or unparsed,
        }
        with lock:
            wanted = answers.pop(0) if answers else {}
            message["answered"] = None if wanted.get("hang") else wanted.get("status", 400 if is_signed is False else 204)
            messages.append(message)
        if self.say:
            print(said(message), file=sys.stderr, flush=True)
        if message["answered"] is None:
            ended.wait()
        else:
            self.answer(message["answered"], retry_after=wanted.get("retryAfter"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--key")
    parser.add_argument("--say", action="store_true")
    options = parser.parse_args()
    Handler.key, Handler.say = options.key, options.say
    host, _, port = options.listen.rpartition(":")
    server = ThreadingHTTPServer((host, int(port)), Handler)
    server.daemon_threads = True
    print(json.dumps({"url": f"http://{host}:{server.server_port}"}), flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    ended.set()


main()

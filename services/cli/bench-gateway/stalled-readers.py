"""Readers that stop reading: opens a stream for each line of stdin (a request's body in JSON) at the URL given, reads its first byte and no
more, and says on stdout, a JSON line each, how the stream ended. The first --resume of them read on after --after seconds, to the end.

Python, because it can make the buffers of a connection small, as they are on a network: on loopback two megabytes go out before anything stalls.
"""
import argparse
import base64
import http.client
import json
import select
import socket
import sys
import threading
import time
import urllib.parse

parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("--resume", type=int, default=0)
parser.add_argument("--after", type=float, default=1.0)
parser.add_argument("--timeout", type=float, default=60.0)
options = parser.parse_args()
url = urllib.parse.urlsplit(options.url)


def open_stream(body: str) -> tuple[socket.socket, http.client.HTTPResponse]:
    connection = socket.socket()
    connection.settimeout(options.timeout)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    connection.connect((url.hostname, url.port))
    data = body.encode()
    head = f"POST {url.path} HTTP/1.1\r\nhost: {url.netloc}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    response = http.client.HTTPResponse(connection, method="POST")
    response.begin()
    return connection, response


def wait_for_reset(connection: socket.socket) -> str:
    poll = select.poll()
    poll.register(connection, select.POLLERR | select.POLLHUP)
    return "ended" if poll.poll(options.timeout * 1000) else "never ended"


def read(index: int, body: str, results: list) -> None:
    result = {"index": index, "outcome": "", "seconds": 0.0}
    started = time.monotonic()
    try:
        connection, response = open_stream(body)
        if response.status != 200:
            result["outcome"] = f"{response.status}: {response.read(300).decode(errors='replace')}"
        else:
            first = response.read(1)
            if index < options.resume:
                time.sleep(options.after)
                result["body"] = base64.b64encode(first + response.read()).decode()
                result["outcome"] = "complete"
            else:
                result["outcome"] = wait_for_reset(connection)
    except OSError as error:
        result["outcome"] = f"{type(error).__name__}: {error}"
    result["seconds"] = time.monotonic() - started
    results.append(result)


results: list = []
threads = [threading.Thread(target=read, args=(index, line, results)) for index, line in enumerate(sys.stdin)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for result in results:
    print(json.dumps(result))

"""A bare loop over what a DECTRIS detector sends: receive, unpack with dectris-compression, count.

usage: dectris_loop.py try        is everything here?
       dectris_loop.py            serves rounds: {"host", "api_port", "stream_port", "stream", "frames"} a line
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.request
from typing import Any

import zmq
from dectris.compression import decompress

CONTEXT = zmq.Context()


def put(base: str, path: str, value: Any = None) -> None:
    body = b"" if value is None else json.dumps({"value": value}).encode()
    request = urllib.request.Request(f"{base}/{path}", data=body, method="PUT")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as reply:
        reply.read()


def frames_of_v1(pull: Any, frames: int) -> int:
    """Unpack images; the parts come grouped in one way or another."""
    done, encoding = 0, ""
    while done < frames:
        for part in pull.recv_multipart():
            if part[:1] == b"{":
                told = json.loads(part)
                if "encoding" in told:
                    encoding = told["encoding"]
                continue
            if encoding.startswith("bs"):
                decompress(part, "bslz4", elem_size=int(encoding[2:].split("-")[0]) // 8)
                done += 1
                encoding = ""
    return done


def frames_of_v2(pull: Any, frames: int) -> int:
    import cbor2

    def hook(*given: Any) -> Any:
        tag = next(each for each in given if hasattr(each, "tag"))  # first in cbor2 6, second in 5
        if tag.tag == 56500:
            algorithm, size, data = tag.value
            return decompress(data, algorithm, elem_size=int(size))
        return tag.value

    done = 0
    while done < frames:
        done += cbor2.loads(pull.recv(), tag_hook=hook).get("type") == "image"
    return done


def run(asked: dict[str, Any]) -> dict[str, Any]:
    server, version = f"http://{asked['host']}:{asked['api_port']}", asked.get("version", "1.8.0")
    base = f"{server}/detector/api/{version}"
    pull = CONTEXT.socket(zmq.PULL)
    pull.rcvtimeo, pull.linger = 30_000, 0
    pull.connect(f"tcp://{asked['host']}:{asked['stream_port']}")
    try:
        put(base, "command/initialize")
        for path, value in asked.get("stream_config", {}).items():
            put(f"{server}/stream/api/{version}", f"config/{path}", value)
        for path, value in asked.get("config", {}).items():
            put(base, f"config/{path}", value)
        put(base, "command/arm")
        began = time.perf_counter()
        trigger = threading.Thread(target=put, args=(base, "command/trigger"))  # answers when the frames are taken
        trigger.start()
        done = (frames_of_v1 if asked["stream"] == "v1" else frames_of_v2)(pull, asked["frames"])
        seconds = time.perf_counter() - began
        trigger.join(30)
        put(base, "command/disarm")
    finally:
        pull.close()
    return {"seconds": seconds, "frames": done, "whole": done >= asked["frames"]}


def main() -> int:
    if sys.argv[1:] == ["try"]:
        return 0
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        try:
            answer = run(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

import threading

import numpy as np

from probeloop.bus.publish import Publisher
from probeloop.bus.request import Client, Server
from probeloop.bus.subscribe import Poller, Subscriber
from probeloop.data.axes import Axis, StreamSpec

SPEC = StreamSpec("camera", "frames", "<u2", nav=(Axis("y", 4), Axis("x", 4)), sig=(Axis("ky", 8), Axis("kx", 8)))


def test_it(bus):
    sub = Subscriber(bus, "camera", "lossless")
    pub = Publisher(bus, "camera", 1 << 16)
    pub.announce(SPEC, 1)
    for k in range(10):
        b = pub.loan(4)
        b.data[:] = k
        b.scan_index[:] = np.arange(4)
        pub.send(b, 3, generation=1)
    got = [(x.index, x.count, int(x.data.sum()), x.data.shape) for x in sub.drain()]
    assert got == [(3 * k, 3, 3 * 64 * k, (3, 8, 8)) for k in range(10)]
    assert sub.stats.lost == 0
    sub.close()
    pub.close()


def test_req(bus):
    s = Server(bus, "gate")
    c = Client(bus, "gate")

    def serve():
        p = Poller(bus, s)
        n = 0
        while n < 3:
            for _ in p.wait(2.0):
                for body, respond in s.receive():
                    respond(body[::-1])
                    n += 1
        p.close()

    t = threading.Thread(target=serve)
    t.start()
    assert c.call(b"abc") == b"cba"
    assert c.call(b"x" * 100000) == b"x" * 100000
    assert c.call(b"") == b""
    t.join()
    c.close()
    s.close()

import uuid

import pytest

from probeloop.bus.node import Bus


@pytest.fixture
def rig_id():
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["local", "ipc"])
def bus(request, rig_id):
    with Bus(rig_id, "test", local=request.param == "local") as one:
        yield one

"""golf/box/protocol.py: whatever bytes come from a box, messages and waiting."""

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.box import protocol


@given(st.binary(max_size=200))
def test_any_bytes_from_a_box_end_in_a_clean_error(data):
    reader, writer = os.pipe()
    try:
        os.write(writer, data)
        os.close(writer)
        with pytest.raises((EOFError, protocol.ProtocolError)):
            while True:
                message = protocol.receive(reader)
                assert isinstance(message["op"], str)
    finally:
        os.close(reader)


def test_messages_arrive_and_waiting_ends():
    reader, writer = os.pipe()
    protocol.send(writer, op="chunk", lanes=3)
    assert protocol.receive(reader, deadline=time.monotonic() + 60) == {"op": "chunk", "lanes": 3}
    with pytest.raises(TimeoutError):
        protocol.receive(reader, deadline=0.0)
    os.write(writer, (protocol.MAX_FRAME + 1).to_bytes(4, "little"))
    with pytest.raises(protocol.ProtocolError, match="65,537 bytes"):
        protocol.receive(reader)
    os.close(reader)
    os.close(writer)

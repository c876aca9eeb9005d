"""What the two ends of a relay say to each other, and the bounds of it. Whatever can't be read is a WireError.

Two lanes, each a connection of its own, so that a reply never waits behind pictures:

    control   Hello > Welcome, then Beat both ways, Ask > Answer, State
    data      Join, then Spec, Block, Happened to the reader; Receipt back

Everything from the reader's side carries the session that Welcome gave to this one connection, and a number that only
rises: what was recorded, or waited in a buffer while the link was cut, does nothing.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from ...data.axes import StreamSpec
from ...data.errors import WireError
from .keys import Role

VERSION = 2
MOST_ASKED = 1 << 20  # bytes of a message from the reader's side
MOST_PART = 256 << 20  # bytes of one part of a message to it
MOST_HEAD = 8 << 20
MOST_TOPICS = 512
TOKEN = 16

Number = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Small = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=48)]
Word = Annotated[str, msgspec.Meta(max_length=500)]
Holder = Annotated[str, msgspec.Meta(pattern=r"^[a-z]{1,20}:[a-z][a-z0-9_-]{0,31}(\.[0-9]{1,3})?$")]
Token = Annotated[bytes, msgspec.Meta(min_length=TOKEN, max_length=TOKEN)]
Marks = Annotated[dict[Name, Count], msgspec.Meta(max_length=MOST_TOPICS)]


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Base of messages; the tag is the class name."""


class Hello(_Message, frozen=True):
    """A reader comes. instance: of its process, so that it is known again after a cut."""

    version: Small
    instance: Token


class Join(_Message, frozen=True):
    """The data lane of a session. got: serial number of the last block of each topic, and of the last event."""

    got: Marks
    event: Count


class Beat(_Message, frozen=True):
    """A sign of life with clock stamps. echo: `sent` of the other side's last beat; heard: when it came here."""

    sent: Count
    echo: Count
    heard: Count


class Ask(_Message, frozen=True):
    """A Request of data/control.py for a service. not_after: on the asker's clock, after which it is void."""

    id: Count
    service: Name
    not_after: Count
    body: Annotated[bytes, msgspec.Meta(max_length=MOST_ASKED)]


class Receipt(_Message, frozen=True):
    """bytes: received on the data lane so far. done: serial numbers up to which all is published there."""

    bytes: Count
    done: Marks
    event: Count


class Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a reader sends: one part. session: empty in a Hello alone."""

    session: Annotated[bytes, msgspec.Meta(max_length=TOKEN)]
    number: Count
    message: Hello | Join | Beat | Ask | Receipt


class Welcome(_Message, frozen=True):
    """The answer to Hello. run: of the rig, new when its indices begin again. resumed: nothing was forgotten.

    holder: the name under which the rig knows this reader, made from its key.
    """

    session: Token
    run: Count
    rig: Name
    holder: Holder
    role: Role
    resumed: bool


class Bye(_Message, frozen=True):
    """No; and what to do about it. again: say Hello again at once."""

    reason: Word
    next_move: Word
    again: bool = False


class Answer(_Message, frozen=True):
    """A Reply of data/control.py to the question `id`."""

    id: Count
    body: bytes


class State(_Message, frozen=True):
    """What stands in the rig's ledger, a few times a second.

    pulses: (process, age [ns], pid, sequence). rows: (kind, name) of what other rooms keep there. services: can be
    asked.
    """

    pulses: Annotated[tuple[tuple[Name, Number, Number, Number], ...], msgspec.Meta(max_length=256)]
    rows: Annotated[tuple[tuple[Small, Name], ...], msgspec.Meta(max_length=1024)]
    services: Annotated[tuple[Name, ...], msgspec.Meta(max_length=256)]


class Spec(_Message, frozen=True):
    """What the blocks of `topic` from here on are. first: index of the first frame that this reader can expect."""

    topic: Name
    lossless: bool
    first: Count
    generation: Number
    spec: StreamSpec


class Block(_Message, frozen=True):
    """A block; its columns and its payload follow as two parts of the same message.

    serial: rises by one, from 1, in a lossless topic. flags ... checksum: as in the block's header. size: of the
    payload [bytes]; packed: it travels compressed.
    """

    topic: Name
    serial: Count
    index: Count
    count: Small
    flags: Annotated[int, msgspec.Meta(ge=0, le=15)]
    generation: Number
    revision: Number
    source_index: Number
    published_ns: Count
    exposed_ns: Count
    checksum: int
    size: Count
    packed: bool


class Happened(_Message, frozen=True):
    """An event of the rig."""

    serial: Count
    body: bytes


FromServer = Welcome | Bye | Beat | Answer | State | Spec | Block | Happened

_encoder = msgspec.msgpack.Encoder()
_envelopes = msgspec.msgpack.Decoder(Envelope)
_from_server: msgspec.msgpack.Decoder[FromServer] = msgspec.msgpack.Decoder(FromServer)


def encode(message: msgspec.Struct) -> bytes:
    """Return a message as msgpack."""
    return _encoder.encode(message)


def read_envelope(body: bytes) -> Envelope:
    """Read what a reader sent; raises WireError."""
    return _read(_envelopes, body, MOST_ASKED + 1024)  # type: ignore[no-any-return]


def read_from_server(head: bytes) -> FromServer:
    """Read the first part of what a server sent; raises WireError."""
    message: FromServer = _read(_from_server, head, MOST_HEAD)
    if isinstance(message, Spec) and (problems := message.spec.problems()):
        raise WireError(f"no stream description: {'; '.join(problems)}")
    if isinstance(message, Block) and message.checksum < 0:
        raise WireError("a negative checksum")
    return message


def _read(decoder: Any, body: bytes, most: int) -> Any:
    if len(body) > most:
        raise WireError(f"a message of {len(body)} bytes, at most {most} are read")
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(f"no message: {error}") from error

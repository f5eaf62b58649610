"""
Histories in Redis: what was published on a channel is a stream there, and its numbers are given by Redis, so that all nodes and
all processes that only send agree on them. Plain blocking calls, no gevent.

    PREFIXhistory:{APP:CHANNEL}:meta    hash: epoch, serial of the last message, bytes of the stream; run: which run of which
                                        Redis numbers; before, until: the epoch before, and its last message that this run
                                        knows; fresh: when the key was given its time to live, in seconds; number: of the
                                        last message
    PREFIXhistory:{APP:CHANNEL}:log     stream, its ids are SERIAL-1; of each message e: an envelope, i: an id of who
                                        published it, n: its time in microseconds, by which those of all channels are in order
    PREFIXhistory:origin                drawn at random, for half a day

A step of which nobody knows whether Redis took it can be made again: with its id it finds what it has written.

Who reads writes nothing of a channel; its first message does. Where nothing was published, the epoch follows from what all
know: the origin, the run of Redis and how much that has evicted, and the channel. Meta outlives the last message by a whole day
and so the origin, so that no epoch is used for a second counting.

Only Redis' clock counts, and it may be set meanwhile. Forward, what is kept may be over at once; where a meta is, so is the
origin. Back, the numbers go on from those there were.

Another run (Redis was restarted, or a replica took over) may know less than was said before. Its first message of a channel
begins a new epoch, which goes on counting: positions of the one before hold as far as this run knew it then.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

from alphavel.websocket.bus.envelope import Envelopes, MalformedError
from alphavel.websocket.channels.positions import Position, derived_epoch, new_epoch

if TYPE_CHECKING:
    from alphavel.websocket.settings import HistorySettings, RedisSettings

META_S = 86_400
"""Seconds for which an epoch outlives its last message, at least: who comes back to a quiet channel has missed nothing."""
_EMPTY_S = META_S // 2
"""Seconds for which channels without messages have one epoch: over before meta can be, even with two masters' clocks apart."""
_FRESH_S = 3600
"""Seconds after which meta is given its time again: it would be a call for each message."""
_TRIES = 3


class _Script:
    """A script, and what Redis calls it once it has it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


# `run`: changes with a restart and when a replica takes over. Where INFO is not allowed, all are one.
_RUN = """
local meta, log = KEYS[1], KEYS[2]
local info = redis.pcall('INFO', 'replication')
local run = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or '-'
"""

_EMPTY = """
  local stats = redis.pcall('INFO', 'stats')
  local empty = run .. ' ' .. (type(stats) == 'string' and string.match(stats, 'evicted_keys:(%d+)') or '-')
"""

_APPEND = _Script(f"""{_RUN}
local known = redis.call('HMGET', meta, 'epoch', 'run', 'serial', 'bytes', 'fresh', 'number')
local epoch = known[1]
if epoch and ARGV[6] == '1' then
  for _, entry in ipairs(redis.call('XREVRANGE', log, '+', '-', 'COUNT', ARGV[3])) do
    if entry[2][4] == ARGV[2] then return {{epoch, string.match(entry[1], '^(%d+)'), entry[2][6]}} end
  end
end
if not epoch then {_EMPTY}
  if ARGV[9] ~= empty and ARGV[9] ~= 'any' then return {{empty}} end
  epoch = ARGV[10]
  redis.call('DEL', log)
  redis.call('HSET', meta, 'epoch', epoch, 'run', run)
elseif known[2] ~= run then
  if ARGV[9] ~= 'any' then return {{'any'}} end
  redis.call('HSET', meta, 'before', epoch, 'until', known[3] or '0', 'epoch', ARGV[10], 'run', run)
  epoch = ARGV[10]
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- After the last one here, and after those that its publisher has seen on other channels: the clock may have been set back.
local number = string.format('%.0f', math.max(now, (known[6] or 0) + 1, ARGV[8] + 1))
local serial = string.format('%.0f', (known[3] or 0) + 1)
local bytes = (known[4] or 0) + #ARGV[1]
redis.call('XADD', log, serial .. '-1', 'e', ARGV[1], 'i', ARGV[2], 'n', number)
local length, size, oldest, at = redis.call('XLEN', log), tonumber(ARGV[3]), {{}}, 1
if length == 1 then bytes = #ARGV[1] end
while length > 0 do
  if not oldest[at] then  -- where the stream is full, as it mostly is, one has to go and the next may stay
    oldest, at = redis.call('XRANGE', log, '-', '+', 'COUNT', length > size and 2 or 1), 1
  end
  local entry = oldest[at]
  if length <= size and bytes <= tonumber(ARGV[5]) and tonumber(entry[2][6]) > now - ARGV[4] * 1000 then break end
  redis.call('XDEL', log, entry[1])
  bytes = bytes - #entry[2][2]
  length, at = length - 1, at + 1
end
redis.call('PEXPIRE', log, ARGV[4])
bytes = length > 0 and bytes or 0
if known[5] and known[5] + {_FRESH_S} > tonumber(time[1]) then
  redis.call('HSET', meta, 'serial', serial, 'bytes', bytes, 'number', number)
else
  redis.call('HSET', meta, 'serial', serial, 'bytes', bytes, 'number', number, 'fresh', time[1])
  redis.call('PEXPIRE', meta, ARGV[7])
end
return {{epoch, serial, number}}
""")

_LOAD = _Script(f"""{_RUN}
local known = redis.call('HMGET', meta, 'epoch', 'run', 'serial', 'before', 'until', 'number')
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
if not known[1] then {_EMPTY}
  return {{empty, now}}
end
local before, last = known[4], known[5]
if known[2] ~= run then before, last = known[1], known[3] or '0' end
return {{known[1], now, known[3] or '0', before, last, redis.call('XRANGE', log, ARGV[1], '+'), known[6] or '0'}}
""")

# One that has more time left than it was given is of before the clock was set back, and might outlive a meta.
_ORIGIN = _Script("""
local left = redis.call('PTTL', KEYS[1])
if left < 0 or left > tonumber(ARGV[2]) then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return redis.call('GET', KEYS[1])
""")


class Place(NamedTuple):
    """What Redis has given a message."""

    epoch: str
    serial: int
    number: int


class Entry(NamedTuple):
    """A message that was kept: its place, and what its publisher wrote."""

    place: Place
    content: dict[str, Any]


class Loaded(NamedTuple):
    """
    A history.

    Attributes:
        epoch, serial: Its position.
        number: Redis' time, as messages are numbered.
        last: Number of the last message; 0: not known.
        entries: What is kept.
        before: As far as this run of Redis knew the epoch before, or this one where it was another run's.
    """

    epoch: str
    serial: int
    number: int
    last: int
    entries: list[Entry]
    before: Position | None = None


class Journal:
    """The histories of a fleet."""

    def __init__(self, client: Any, settings: RedisSettings, origin: str) -> None:
        """
        Args:
            client: redis-py's.
            settings: Say what keys begin with, and how what is kept is signed.
            origin: Name of this process.
        """
        self._client = client
        self._prefix = settings.prefix
        # Sealed in the name of a process and opened in that of none: what this one has kept is to be read by it, too.
        self._sealing = Envelopes(origin, settings.secret)
        self._opening = Envelopes("", settings.secret)

    def seal(self, content: dict[str, Any]) -> bytes:
        """Write a message for `append`."""
        return self._sealing.seal("kept", content)

    def append(
        self, app_id: str, channel: str, rules: HistorySettings, sealed: bytes, message_id: str, again: bool, after: int = 0
    ) -> Place:
        """
        Keep a message and number it.

        Args:
            app_id: Id of the app.
            channel: Its channel.
            rules: How much the channel keeps.
            sealed: See `seal`.
            message_id: Unique to the message.
            again: Whether it may have been appended already.
            after: The highest number that its publisher has seen, on whatever channel.

        Raises:
            redis.RedisError, OSError: It is not known whether that was done.
        """
        ttl_ms, meta_ms = int(rules.ttl * 1000), int((max(rules.ttl, META_S) + _FRESH_S) * 1000)
        given = (sealed, message_id, rules.size, ttl_ms, rules.max_bytes, int(again), meta_ms, after)
        keys = self._keys(app_id, channel)
        answer = self._run(_APPEND, keys, *given)
        for tries in range(1, _TRIES + 1):
            if len(answer) > 1:
                break
            # An epoch begins. Where it is the channel's first message: the one that those who joined have been told.
            state = _text(answer[0]) if tries < _TRIES else "any"
            first = new_epoch(channel) if state == "any" else self._empty_epoch(state, channel)
            answer = self._run(_APPEND, keys, *given, state, first)
        epoch, serial, number = answer
        return Place(_text(epoch), int(serial), int(number))

    def load(self, app_id: str, channel: str, after: int = 0) -> Loaded:
        """
        Return what is kept of a channel. Writes nothing of the channel, which may be a stranger's invention.

        Args:
            app_id: Id of the app.
            channel: Its name.
            after: Serial; only what came later.

        Raises:
            redis.RedisError, OSError: Redis cannot be reached.
            EnvelopeError: What is there is not of this fleet.
        """
        epoch, number, *more = self._run(_LOAD, self._keys(app_id, channel), f"{after + 1}-0")
        if not more:
            return Loaded(self._empty_epoch(_text(epoch), channel), 0, int(number), 0, [])
        serial, before, until, entries, last = more
        of = _text(epoch)
        known = None if before is None else Position(_text(before), int(until))
        return Loaded(of, int(serial), int(number), int(last), [self._entry(of, *entry) for entry in entries], known)

    def use(self, app_id: str, key: str, value: str, window_s: float) -> bool:
        """Use an idempotency key; return False where another message has used it. `value`: unique to the message."""
        name = self._key_name(app_id, key)
        if self._client.set(name, value, nx=True, px=int(window_s * 1000)):
            return True
        return self._is_used_by(name, value)  # it was this very one, whose answer was lost

    def give_back(self, app_id: str, key: str, value: str) -> None:
        """Undo `use`: the message was not published."""
        name = self._key_name(app_id, key)
        if self._is_used_by(name, value):
            self._client.delete(name)

    def _key_name(self, app_id: str, key: str) -> str:
        return f"{self._prefix}idempotency:{app_id}:{key}"

    def _is_used_by(self, name: str, value: str) -> bool:
        known = self._client.get(name)
        return known is not None and _text(known) == value

    def _run(self, script: _Script, keys: tuple[str, ...], *given: Any) -> Any:
        from redis.exceptions import NoScriptError

        try:
            return self._client.evalsha(script.sha, len(keys), *keys, *given)
        except NoScriptError:
            return self._client.eval(script.text, len(keys), *keys, *given)

    def _empty_epoch(self, state: str, channel: str) -> str:
        """Return the epoch of a channel that nothing was published on of late; `state`: Redis', see `_EMPTY`."""
        # Asked each time: Redis may have been emptied.
        origin = self._run(_ORIGIN, (f"{self._prefix}history:origin",), secrets.token_hex(16), _EMPTY_S * 1000)
        return derived_epoch(channel, f"{_text(origin)} {state}")

    def _keys(self, app_id: str, channel: str) -> tuple[str, str]:
        name = f"{self._prefix}history:{{{app_id}:{channel}}}"
        return f"{name}:meta", f"{name}:log"

    def _entry(self, epoch: str, entry_id: bytes, fields: list[bytes]) -> Entry:
        try:
            sealed, place = fields[1], Place(epoch, int(entry_id.partition(b"-")[0]), int(fields[5]))
        except (IndexError, ValueError):
            raise MalformedError("Expected a message that somebody has kept, with its number.") from None
        content = self._opening.open(sealed)
        if content is None:
            raise MalformedError("Expected a message that somebody has kept.")
        return Entry(place, content)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)

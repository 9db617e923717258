"""What names mean in frames, where they mean something else than in the REST API, or are not known there."""

from ai_agent.api.openapi.glossary import meaning as rest_meaning

_EPOCH = "Which numbering `seq` is of: it changes when the log may have lost its newest events"

GLOSSARY = {
    "id": "Your own number of a command; what answers it carries the same",
    "ch": "The channel, such as `execution:<id>`",
    "t": "What this frame is",
    "epoch": _EPOCH,
    "seq": "The number of an event in its channel",
    "top": "The newest event's number",
    "floor": "The number of the oldest event that is kept",
    "recovered": "Whether nothing that followed the position is gone",
    "status": "As the status of a REST answer",
    "SnapshotData.status": "Where the run stands",
    "McpServerStatusData.mcp_server_id": "The MCP server",
    "McpServerStatusData.name": "Its name",
    "McpServerStatusData.status": "What it is now",
    "McpServerStatusData.previous": "What it was before",
    "McpServerStatusData.last_error": "Why it was of no use; null when it was",
    "retryable": "Whether trying again may help",
    "message": "What is wrong, in words",
    # Commands
    "token": "An API key or a JWT",
    "Connect.token": "An API key or a JWT; not needed when the upgrade brought credentials",
    "client": "Who connects",
    "caps": "What the client can do besides: `batch`, several frames in one array",
    "resume": "Subscriptions of an earlier connection, and how far each came",
    "ClientInfo.name": "What kind of client it is",
    "instance": "Which one it is: a later connection of the same instance replaces the earlier one",
    "since": "The last event that you have; what follows it is told",
    "Since.epoch": _EPOCH + "; without one the present one",
    "Resume.epoch": _EPOCH + "; without one the present one",
    "Since.seq": "Its number",
    "Resume.seq": "The number of the last event that you have",
    "Subscribe.from": "Where to start without a position: `now`, at what is kept (`earliest`), or at the last so many "
    "(`last:20`). When absent: `now`",
    "on_gap": "What to do when something that followed the position is gone: go on with what is new, with the oldest "
    "that is kept, or not at all",
    "types": "Only events of these types; `message.*` means all that begin so. None: all",
    "lane": "The lane of the queue: 0 urgent, 1 normal, 2 bulk",
    "Ack.seq": "All of the lane up to this one",
    "eids": "These events",
    "delay_ms": "Milliseconds after which it comes again",
    "Presence.typing": "Whether your user types there, for ten seconds; when absent nothing is said of it",
    "limit": "Most events of the page",
    "method": "`execution.cancel`, `execution.approve`, `agent.execute` or `message.create`",
    "params": "Path parameters and body of its REST twin, in one object",
    # Frames
    "conn": "The connection, as the log names it",
    "user": "Who you are here",
    "node": "Which server it is",
    "heartbeat": "When to expect a ping",
    "ping_ms": "Milliseconds between pings",
    "pong_ms": "Milliseconds in which a pong is expected",
    "Welcome.expires_at": "When the credentials end, in milliseconds since the epoch; null for never",
    "limits": "What is allowed on this connection",
    "frame": "Bytes of a frame",
    "subscriptions": "Subscriptions at once",
    "commands_per_second": "Commands a second",
    "resumed": "How each subscription of `resume` goes on",
    "Resumed.code": "Why it does not go on; absent when it does",
    "Resumed.seq": "Events behind this one follow",
    "Subscribed.seq": "Events behind this one follow",
    "Live.seq": "All up to this one has been told",
    "EpochChanged.seq": "The last event that you were sent, in the numbers of the new epoch",
    "rewound_to": "Events behind this one were lost and are told anew: go back to it, and drop what you have seen by "
    "its `eid`; absent when all that you have still counts",
    "GapFrame.from": "The first that is gone",
    "to": "The last that is gone",
    "GapFrame.reason": "Why: too old, expired, or of an epoch that nobody remembers",
    "Reply.data": "What the command answers: of `call` what its REST twin does, of `history` "
    "`{epoch, top, floor, events}`, of `auth` `{expires_at}`, of `presence` `{users: [{user_id, since, typing}]}`",
    "ErrorFrame.field": "The field that is wrong",
    "retry_after_ms": "Milliseconds after which to try again",
    "in_ms": "Milliseconds until they end",
    "Unsubscribed.reason": "`requested`, `revoked` or `deleted`",
    "after_ms": "Milliseconds to wait before connecting again; a random time up to 20 s when absent",
    "Drain.after_ms": "Milliseconds until the connection is closed",
    "Drain.reason": "Why, in a word",
    "Bye.code": "The code that the socket is closed with",
    "Bye.reason": "The same in a word",
    "reconnect": "Whether to connect again",
    **dict.fromkeys(
        ("PresenceJoinedData.user_id", "PresenceLeftData.user_id", "PresenceTypingData.user_id"),
        "Who it is, as `welcome` calls them",
    ),
    "PresenceJoinedData.client": "The client that they came with; null when nobody knows it any more",
    "PresenceTypingData.typing": "Whether they are typing now",
    "FailedData.code": "What is wrong, for programs",
}


def meaning(name: str, place: str) -> str | None:
    """The description of a field of a Struct."""
    if (own := GLOSSARY.get(f"{place}.{name}")) is not None:
        return own
    told = rest_meaning(name, place)
    return told if place.endswith("Data") or place in ("Usage", "EventFrame") else GLOSSARY.get(name, told)

// Written by scripts/types.mjs from docs/asyncapi.json. Do not edit.

/** Acknowledges queued events: all up to `seq` of a lane that were sent, or single ones. */
export interface Ack {
  /** What this frame is */
  t: "ack";
  /** The channel, such as `execution:<id>` */
  ch: string;
  /** The lane of the queue: 0 urgent, 1 normal, 2 bulk */
  lane?: number | null;
  /** All of the lane up to this one */
  seq?: number | null;
  /** These events. When absent: `[]` */
  eids?: Array<string>;
  /** Your own number of a command; what answers it carries the same */
  id?: number | null;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface AgentCreatedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "agent.created";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: AgentData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** An agent; `truncated` is there when its system prompt or its tools were cut. */
export interface AgentData {
  /** UUIDv7, made by the server */
  id: string;
  /** Unique among the agents of their owner; stripped of outer white space */
  name: string;
  /** For people who read lists */
  description: string | null;
  /** The instructions that every run begins with */
  system_prompt: string | null;
  /** Which model answers, and its bounds */
  model_config: ModelConfig;
  /** Names of registered tools that the agent may call */
  tools: Array<string>;
  /** Where it stands; set by the server */
  status: AgentStatus;
  /** Grows by one with every change */
  version: number;
  /** A JSON object of your own: at most 16 KiB encoded and 8 levels deep */
  metadata: Record<string, unknown>;
  /** When it was created */
  created_at: string;
  /** When it was last changed */
  updated_at: string;
  /** Whether the text was cut */
  truncated?: boolean;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface AgentDeletedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "agent.deleted";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: DeletedData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** Processing or waiting while an execution is, else how the last one ended. */
export type AgentStatus = "completed" | "error" | "idle" | "processing" | "waiting";

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface AgentUpdatedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "agent.updated";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: AgentData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface ApplicationEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** Whatever the publisher calls it */
  type: string;
  /** When, in milliseconds since the epoch */
  ts: number;
  /** Whatever the publisher has to say */
  data: unknown;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** Nobody decided in time, so the model hears of a rejection. */
export interface ApprovalExpiredData {
  /** The execution */
  execution_id: string;
  /** The session */
  session_id: string;
  /** The model's own name of the call */
  call_id: string;
  /** The tool */
  name: string;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface ApprovalExpiredEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "approval.expired";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: ApprovalExpiredData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** Somebody has to allow a call until `expires_at`, or it counts as rejected. */
export interface ApprovalRequestedData {
  /** The execution */
  execution_id: string;
  /** The session */
  session_id: string;
  /** The model's own name of the call */
  call_id: string;
  /** The tool */
  name: string;
  /** What the tool is called with */
  arguments: Record<string, unknown>;
  /** When it ends by itself; null for never */
  expires_at: string;
  /** Whether the text was cut */
  truncated: boolean;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface ApprovalRequestedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "approval.requested";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: ApprovalRequestedData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** How it was decided; `arguments` are those that the call is made with. */
export interface ApprovalResolvedData {
  /** The execution */
  execution_id: string;
  /** The session */
  session_id: string;
  /** The model's own name of the call */
  call_id: string;
  /** The tool */
  name: string;
  /** Whether the call may be made */
  decision: Decision;
  /** Why, in words, which the model hears when the call is rejected; null when nothing was said */
  reason: string | null;
  /** What the tool is called with */
  arguments: Record<string, unknown>;
  /** Whether the text was cut */
  truncated: boolean;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface ApprovalResolvedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "approval.resolved";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: ApprovalResolvedData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** Renews the credentials in place. */
export interface Auth {
  /** What this frame is */
  t: "auth";
  /** An API key or a JWT */
  token: string;
  /** Your own number of a command; what answers it carries the same */
  id?: number | null;
}

/** The credentials end in so many milliseconds: `auth` renews them. */
export interface AuthExpiring {
  /** What this frame is */
  t: "auth_expiring";
  /** Milliseconds until they end */
  in_ms: number;
  /** Your own number of a command; what answers it carries the same */
  id?: number;
}

/** The last frame before the socket is closed with `code`. `after_ms`: how long to wait before the next. */
export interface Bye {
  /** What this frame is */
  t: "bye";
  /** The code that the socket is closed with */
  code: number;
  /** The same in a word */
  reason: string;
  /** Whether to connect again */
  reconnect: boolean;
  /** Milliseconds to wait before connecting again; a random time up to 20 s when absent */
  after_ms?: number;
  /** Your own number of a command; what answers it carries the same */
  id?: number;
}

/** Calls a method, as its REST twin does. */
export interface Call {
  /** What this frame is */
  t: "call";
  /** `execution.cancel`, `execution.approve`, `agent.execute` or `message.create` */
  method: string;
  /** Path parameters and body of its REST twin, in one object. When absent: `{}` */
  params?: Record<string, unknown>;
  /** Your own number of a command; what answers it carries the same */
  id?: number | null;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface CancelledEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "execution.cancelled";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: EndedData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** Who connects. A later connection of the same `instance` replaces this one. */
export interface ClientInfo {
  /** What kind of client it is. When absent: `""` */
  name?: string;
  /** Which one it is: a later connection of the same instance replaces the earlier one. When absent: `""` */
  instance?: string;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface CompletedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "execution.completed";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: EndedData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** Opens the conversation; `resume` subscribes again to what the client was subscribed to. */
export interface Connect {
  /** What this frame is */
  t: "connect";
  /** An API key or a JWT; not needed when the upgrade brought credentials */
  token?: string | null;
  /** Who connects */
  client?: ClientInfo;
  /** What the client can do besides: `batch`, several frames in one array. When absent: `[]` */
  caps?: Array<string>;
  /** Subscriptions of an earlier connection, and how far each came. When absent: `[]` */
  resume?: Array<Resume>;
  /** Your own number of a command; what answers it carries the same */
  id?: number | null;
}

/** What somebody says to a call that needs approval. */
export type Decision = "approve" | "reject";

/** It is gone, and this is its channel's last event. */
export interface DeletedData {
  /** UUIDv7, made by the server */
  id: string;
}

/** The server is going to close the connection after so many milliseconds. */
export interface Drain {
  /** What this frame is */
  t: "drain";
  /** Milliseconds until the connection is closed */
  after_ms: number;
  /** Why, in a word */
  reason: string;
  /** Your own number of a command; what answers it carries the same */
  id?: number;
}

/** `message_id` is null when nothing was said. */
export interface EndedData {
  /** The execution */
  execution_id: string;
  /** The session */
  session_id: string | null;
  /** The agent */
  agent_id: string | null;
  /** The message that holds what was said */
  message_id: string | null;
  /** The tokens that were used */
  usage: Usage;
  /** Milliseconds from being asked to the end */
  execution_time_ms: number;
}

/** The numbering has changed behind `seq`, the last event that was sent; or behind `rewound_to`, a lower number. */
export interface EpochChanged {
  /** What this frame is */
  t: "epoch";
  /** The channel, such as `execution:<id>` */
  ch: string;
  /** Which numbering `seq` is of: it changes when the log may have lost its newest events */
  epoch: string;
  /** The last event that you were sent, in the numbers of the new epoch */
  seq: number;
  /** Events behind this one were lost and are told anew: go back to it, and drop what you have seen by its `eid`; absent when all that you have still counts */
  rewound_to?: number;
  /** Your own number of a command; what answers it carries the same */
  id?: number;
}

/** What was wrong; the connection goes on unless `bye` follows. */
export interface ErrorFrame {
  /** What this frame is */
  t: "error";
  /** What is wrong, for programs */
  code: string;
  /** As the status of a REST answer */
  status: number;
  /** What is wrong, in words */
  message: string;
  /** Whether trying again may help */
  retryable: boolean;
  /** The channel, such as `execution:<id>` */
  ch?: string;
  /** The field that is wrong */
  field?: string;
  /** What a program may want to know besides; its members depend on the code */
  details?: Record<string, unknown>;
  /** Milliseconds after which to try again */
  retry_after_ms?: number;
  /** Finds the request in the server's log */
  correlation_id?: string;
  /** Your own number of a command; what answers it carries the same */
  id?: number;
}

/** The last three are final. */
export type ExecutionStatus = "cancelled" | "completed" | "failed" | "queued" | "running" | "waiting";

/** Why the run failed. */
export interface FailedData {
  /** The execution */
  execution_id: string;
  /** The session */
  session_id: string | null;
  /** The agent */
  agent_id: string | null;
  /** What is wrong, for programs */
  code: string;
  /** What is wrong, in words */
  message: string;
  /** Whether trying again may help */
  retryable: boolean;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface FailedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "execution.failed";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: FailedData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** Events that are gone, from the first to the last of them; of a user's queue in that lane. */
export interface GapFrame {
  /** What this frame is */
  t: "gap";
  /** The channel, such as `execution:<id>` */
  ch: string;
  /** The first that is gone */
  from: number;
  /** The last that is gone */
  to: number;
  /** Why: too old, expired, or of an epoch that nobody remembers */
  reason: "epoch" | "expired" | "trimmed";
  /** The lane of the queue: 0 urgent, 1 normal, 2 bulk */
  lane?: number;
  /** Your own number of a command; what answers it carries the same */
  id?: number;
}

/** Sockets are served. */
export interface Healthy {
  /** Always `healthy` */
  status: "healthy";
  /** What is away, although sockets are served */
  degraded: Array<string>;
}

/** A ping comes so often, and its pong is awaited so long; milliseconds. */
export interface Heartbeat {
  /** Milliseconds between pings */
  ping_ms: number;
  /** Milliseconds in which a pong is expected */
  pong_ms: number;
}

/** Reads a page of a channel without subscribing. */
export interface History {
  /** What this frame is */
  t: "history";
  /** The channel, such as `execution:<id>` */
  ch: string;
  /** The last event that you have; what follows it is told */
  since: Since;
  /** Most events of the page. When absent: `50` */
  limit?: number;
  /** Your own number of a command; what answers it carries the same */
  id?: number | null;
}

/** Bytes of a frame, subscriptions of a connection, commands a second. */
export interface Limits {
  /** Bytes of a frame */
  frame: number;
  /** Subscriptions at once */
  subscriptions: number;
  /** Commands a second */
  commands_per_second: number;
}

/** All that was kept has been sent; what comes now is new. */
export interface Live {
  /** What this frame is */
  t: "live";
  /** The channel, such as `execution:<id>` */
  ch: string;
  /** All up to this one has been told */
  seq: number;
  /** Your own number of a command; what answers it carries the same */
  id?: number;
}

/** `unknown` until it was asked for the first time, `degraded` when it failed to answer lately, but not for long. */
export type McpServerStatus = "connected" | "degraded" | "disabled" | "unknown" | "unreachable";

/** `mcp_server.status`: what an MCP server has become. */
export interface McpServerStatusData {
  /** The MCP server */
  mcp_server_id: string;
  /** Its name */
  name: string;
  /** What it is now */
  status: McpServerStatus;
  /** What it was before */
  previous: McpServerStatus;
  /** Why it was of no use; null when it was */
  last_error: string | null;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface McpServerStatusEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "mcp_server.status";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: McpServerStatusData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface MessageCreatedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "message.created";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: MessageData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** A message; `truncated` is there when its content or its tool calls were cut. */
export interface MessageData {
  /** UUIDv7, made by the server */
  id: string;
  /** The session */
  session_id: string;
  /** Who speaks */
  role: Role;
  /** The text, kept byte for byte; at most 1 MiB in UTF-8 */
  content: string;
  /** A JSON object of your own: at most 16 KiB encoded and 8 levels deep */
  metadata: Record<string, unknown>;
  /** Calls of tools, as the model made them */
  tool_calls: Array<Record<string, unknown>>;
  /** The message that this one follows; null for the first */
  parent_message_id: string | null;
  /** The agent */
  agent_id: string | null;
  /** The execution */
  execution_id: string | null;
  /** The order of writing in the session, from 1 */
  position: number;
  /** When it was created */
  created_at: string;
  /** When it was last changed */
  updated_at: string;
  /** Whether the text was cut */
  truncated?: boolean;
}

/** The message is gone, and its replies follow its parent. */
export interface MessageDeletedData {
  /** UUIDv7, made by the server */
  id: string;
  /** The session */
  session_id: string;
  /** The message that this one follows; null for the first */
  parent_message_id: string | null;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface MessageDeletedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "message.deleted";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: MessageDeletedData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface MessageUpdatedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "message.updated";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: MessageData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** Which model answers, where, and its bounds. Tokens are the provider's own, times are seconds, costs US dollars.
 * 
 * `on_busy` is what executions do that ask for nothing else where the session is busy. `fallback_models` are of the
 * same provider. `api_key` is write-only; a `base_url` of one's own needs one. */
export interface ModelConfig {
  /** Whose model it is */
  provider?: Provider | null;
  /** The provider's own name of the model */
  model?: string | null;
  /** How freely the model chooses its words; the provider's own default when absent */
  temperature?: number | null;
  /** Most tokens of one answer of the model */
  max_tokens?: number | null;
  /** Nucleus sampling: the share of likely words that are chosen from */
  top_p?: number | null;
  /** Where the model is, when it is not where the operator's settings say; needs an `api_key` of its own */
  base_url?: string | null;
  /** Models of the same provider to turn to, in this order, when one fails */
  fallback_models?: Array<string> | null;
  /** When the run is given up; an agent's own, unless the call says otherwise */
  timeout_seconds?: number | null;
  /** Most calls of the model in one run */
  max_steps?: number | null;
  /** Most tokens of one run, input and output */
  max_total_tokens?: number | null;
  /** Most that one run may cost, in US dollars */
  max_cost?: number | null;
  /** What to do when the session has a live execution: `reject` (the default) answers 409 `session_busy`, `enqueue` waits for its turn, `interrupt` cancels the live one and keeps what it has said, `rollback` cancels it and removes its messages */
  on_busy?: OnBusy | null;
  /** Write-only: encrypted at rest, and shown as `***` */
  api_key?: string | null;
}

/** Asks for a queued event again, after a delay. */
export interface Nack {
  /** What this frame is */
  t: "nack";
  /** The channel, such as `execution:<id>` */
  ch: string;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** Milliseconds after which it comes again. When absent: `0` */
  delay_ms?: number;
  /** Your own number of a command; what answers it carries the same */
  id?: number | null;
}

/** What somebody wants a user to know. */
export interface NotificationData {
  /** At most 500 characters; stripped of outer white space */
  title: string;
  /** What there is to say */
  body: string | null;
  /** What there is to say of it */
  data: Record<string, unknown>;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface NotificationEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "notification";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: NotificationData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** What becomes of a run that is wanted where another one is live.
 * 
 *     `reject` refuses it; `enqueue` runs it behind those that wait; `interrupt` cancels the live one, keeps what that
 *     has said, and runs it next; `rollback` does the same and removes the live one's messages. */
export type OnBusy = "enqueue" | "interrupt" | "reject" | "rollback";

/** Asks whether the other side is there; a pong answers. */
export interface Ping {
  /** What this frame is */
  t: "ping";
  /** Your own number of a command; what answers it carries the same */
  id?: number | null;
}

/** Answers a ping. */
export interface Pong {
  /** What this frame is */
  t: "pong";
  /** Your own number of a command; what answers it carries the same */
  id?: number | null;
}

/** Asks who is in a session; `typing` says that the client's user types there, or does not. */
export interface Presence {
  /** What this frame is */
  t: "presence";
  /** The channel, such as `execution:<id>` */
  ch: string;
  /** Whether your user types there, for ten seconds; when absent nothing is said of it */
  typing?: boolean | null;
  /** Your own number of a command; what answers it carries the same */
  id?: number | null;
}

/** Somebody is in the session, who was not: with one of their clients, null where nobody knows which. */
export interface PresenceJoinedData {
  /** Who it is, as `welcome` calls them */
  user_id: string;
  /** The client that they came with; null when nobody knows it any more */
  client: string | null;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface PresenceJoinedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "presence.joined";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: PresenceJoinedData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** The last of somebody's clients has left the session. */
export interface PresenceLeftData {
  /** Who it is, as `welcome` calls them */
  user_id: string;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface PresenceLeftEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "presence.left";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: PresenceLeftData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** Somebody in the session begins to type, or has stopped. */
export interface PresenceTypingData {
  /** Who it is, as `welcome` calls them */
  user_id: string;
  /** Whether they are typing now */
  typing: boolean;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface PresenceTypingEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "presence.typing";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: PresenceTypingData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** The step that begins: one request to the model, and the tools that it asks for. `steps` is the bound. */
export interface ProgressData {
  /** The request to the model that it belongs to, from 1 */
  step: number;
  /** How many there may be */
  steps: number;
  /** How far the run is; null when nobody knows */
  percent: number | null;
  /** What is being done, in words; null when nothing is said */
  message: string | null;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface ProgressEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "execution.progress";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: ProgressData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** `openai` is also everything that speaks its protocol at the operator's `OPENAI_BASE_URL`. */
export type Provider = "anthropic" | "local" | "openai";

/** What is going to run, and where. */
export interface QueuedData {
  /** The execution */
  execution_id: string;
  /** The session */
  session_id: string;
  /** The agent */
  agent_id: string;
  /** The message that is answered; null when it was deleted */
  input_message_id: string;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface QueuedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "execution.queued";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: QueuedData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** A piece of what the model thinks; no part of the answer. */
export interface ReasoningData {
  /** The message that will hold the answer */
  message_id: string;
  /** The piece of text */
  text: string;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface ReasoningEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "execution.reasoning";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: ReasoningData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** The answer to a command. */
export interface Reply {
  /** What this frame is */
  t: "reply";
  /** What the command answers: of `call` what its REST twin does, of `history` `{epoch, top, floor, events}`, of `auth` `{expires_at}`, of `presence` `{users: [{user_id, since, typing}]}` */
  data: unknown;
  /** Your own number of a command; what answers it carries the same */
  id?: number;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface RestartedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "execution.restarted";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: StartedData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** A subscription that a client had before, and how far it came. */
export interface Resume {
  /** The number of the last event that you have */
  seq: number;
  /** Which numbering `seq` is of: it changes when the log may have lost its newest events; without one the present one. When absent: `""` */
  epoch?: string;
  /** The channel, such as `execution:<id>` */
  ch: string;
}

/** How a subscription goes on: as `subscribed`, or with the error's `code`. */
export interface Resumed {
  /** The channel, such as `execution:<id>` */
  ch: string;
  /** Whether nothing that followed the position is gone */
  recovered: boolean;
  /** Which numbering `seq` is of: it changes when the log may have lost its newest events */
  epoch: string;
  /** Events behind this one follow */
  seq: number;
  /** The newest event's number */
  top: number;
  /** The number of the oldest event that is kept */
  floor: number;
  /** Why it does not go on; absent when it does */
  code?: string;
}

/** Who speaks. */
export type Role = "assistant" | "system" | "tool" | "user";

/** Asks whether the client is there. */
export interface ServerPing {
  /** What this frame is */
  t: "ping";
  /** Your own number of a command; what answers it carries the same */
  id?: number;
}

/** Answers a client's ping. */
export interface ServerPong {
  /** What this frame is */
  t: "pong";
  /** Your own number of a command; what answers it carries the same */
  id?: number;
}

/** One conversation of its owner. */
export interface Session {
  /** Your own number of a command; what answers it carries the same */
  id: string;
  /** Your own label for your end user; a filter and no authority */
  user_id: string | null;
  /** At most 500 characters; stripped of outer white space */
  title: string | null;
  /** A JSON object of your own: at most 16 KiB encoded and 8 levels deep */
  metadata: Record<string, unknown>;
  /** Exact after any concurrent writes */
  message_count: number;
  /** When a message was last written or removed */
  last_activity: string;
  /** As the status of a REST answer */
  status: SessionStatus;
  /** When it was created */
  created_at: string;
  /** When it was last changed */
  updated_at: string;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface SessionCreatedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "session.created";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: Session;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface SessionDeletedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "session.deleted";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: DeletedData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** Derived from the session's executions, and stored with the change that causes it. */
export type SessionStatus = "active" | "idle" | "waiting";

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface SessionUpdatedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "session.updated";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: Session;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** The last event that a client has; without an epoch in the present one. */
export interface Since {
  /** Its number */
  seq: number;
  /** Which numbering `seq` is of: it changes when the log may have lost its newest events; without one the present one. When absent: `""` */
  epoch?: string;
}

/** The text so far, in place of events that are gone; `offset` is its length. The next token follows it. */
export interface SnapshotData {
  /** The message that the text is of; null when nothing was said */
  message_id: string | null;
  /** All that was said so far */
  text: string;
  /** How many characters were said */
  offset: number;
  /** Where the run stands */
  status: ExecutionStatus;
  /** Whether the text was cut */
  truncated: boolean;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface SnapshotEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "execution.snapshot";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: SnapshotData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** Which attempt begins; after a restart the text so far is void. */
export interface StartedData {
  /** The execution */
  execution_id: string;
  /** The session */
  session_id: string | null;
  /** The agent */
  agent_id: string | null;
  /** Counts from 1; a run that loses its server begins again */
  attempt: number;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface StartedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "execution.started";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: StartedData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** Subscribes to a channel: behind a position (`since`), or from `now`, `earliest` or `last:N`.
 * 
 * `on_gap` says what to do when what follows the position is gone. `types` are patterns such as `message.*`. */
export interface Subscribe {
  /** What this frame is */
  t: "subscribe";
  /** The channel, such as `execution:<id>` */
  ch: string;
  /** The last event that you have; what follows it is told */
  since?: Since | null;
  /** Where to start without a position: `now`, at what is kept (`earliest`), or at the last so many (`last:20`). When absent: `now` */
  from?: string | null;
  /** What to do when something that followed the position is gone: go on with what is new, with the oldest that is kept, or not at all. When absent: `"latest"` */
  on_gap?: "earliest" | "fail" | "latest";
  /** Only events of these types; `message.*` means all that begin so. None: all. When absent: `[]` */
  types?: Array<string>;
  /** Your own number of a command; what answers it carries the same */
  id?: number | null;
}

/** Comes before the first event: events behind `seq` follow. `recovered` is false when some are gone. */
export interface Subscribed {
  /** What this frame is */
  t: "subscribed";
  /** The channel, such as `execution:<id>` */
  ch: string;
  /** Which numbering `seq` is of: it changes when the log may have lost its newest events */
  epoch: string;
  /** Events behind this one follow */
  seq: number;
  /** The newest event's number */
  top: number;
  /** The number of the oldest event that is kept */
  floor: number;
  /** Whether nothing that followed the position is gone */
  recovered: boolean;
  /** Your own number of a command; what answers it carries the same */
  id?: number;
}

/** A piece of the answer; `offset` counts the characters before it. */
export interface TokenData {
  /** The message that will hold the answer */
  message_id: string;
  /** Characters of the answer before this piece */
  offset: number;
  /** The piece of text */
  text: string;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface TokenEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "execution.token";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: TokenData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface ToolCompletedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "tool.completed";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: ToolEndedData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** What came of a call, as the model hears it. Text over 64 KiB is cut; the execution's tool calls have all. */
export interface ToolEndedData {
  /** The model's own name of the call */
  call_id: string;
  /** The tool */
  name: string;
  /** What came of the call, as the model hears it; null before that */
  output: unknown;
  /** Milliseconds that the tool took; null when it did not run */
  duration_ms: number | null;
  /** Whether the text was cut */
  truncated: boolean;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface ToolFailedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "tool.failed";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: ToolEndedData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** `builtin` runs in the server, which sends the request of an `http` tool; a `client` tool is run by the client.
 * 
 *     An `mcp` tool is one of an MCP server, made by a sync. */
export type ToolKind = "builtin" | "client" | "http" | "mcp";

/** How far a call is, where its tool says so; at most ten times a second, and lost where nobody hears it. */
export interface ToolProgressData {
  /** The model's own name of the call */
  call_id: string;
  /** The tool */
  name: string;
  /** How far the call is; it grows */
  progress: number;
  /** How far it will be at its end; null when the tool does not know */
  total: number | null;
  /** What is being done, in words; null when nothing is said */
  message: string | null;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface ToolProgressEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "tool.progress";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: ToolProgressData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** The model calls a tool. One of kind `client` is for the client to run, which answers until `expires_at`. */
export interface ToolStartedData {
  /** The model's own name of the call */
  call_id: string;
  /** The tool */
  name: string;
  /** Who runs it: the server (`builtin`), the server by a request of its own (`http`), an MCP server (`mcp`), or the client (`client`), which posts the result */
  kind: ToolKind;
  /** What the tool is called with */
  arguments: Record<string, unknown>;
  /** When it ends by itself; null for never */
  expires_at: string | null;
  /** Whether the text was cut */
  truncated: boolean;
}

/** An event as it is delivered; `ts` is milliseconds since the epoch.
 * 
 * Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
 * which time they are sent (`try`), and in milliseconds until when they matter (`exp`). */
export interface ToolStartedEvent {
  /** What this frame is */
  t: "event";
  /** The channel, `execution:<id>` */
  ch: string;
  /** Grows by one in its channel */
  seq: number;
  /** The event's own id, UUIDv7 */
  eid: string;
  /** What happened */
  type: "tool.started";
  /** When, in milliseconds since the epoch */
  ts: number;
  /** What there is to say of it */
  data: ToolStartedData;
  /** 0 is urgent, 1 normal, 2 bulk; each keeps its order */
  lane?: number;
  /** True when the event waits in a queue until it is acknowledged */
  ack?: boolean;
  /** For which time it is sent, from 1 */
  try?: number;
  /** Until when it matters, in milliseconds since the epoch */
  exp?: number;
  /** The event before this one that you may see, where events between are hidden from you; absent when it is `seq - 1` */
  prev?: number;
}

/** Ends a subscription. */
export interface Unsubscribe {
  /** What this frame is */
  t: "unsubscribe";
  /** The channel, such as `execution:<id>` */
  ch: string;
  /** Your own number of a command; what answers it carries the same */
  id?: number | null;
}

/** A subscription has ended: `requested`, `revoked` or `deleted`. */
export interface Unsubscribed {
  /** What this frame is */
  t: "unsubscribed";
  /** The channel, such as `execution:<id>` */
  ch: string;
  /** `requested`, `revoked` or `deleted` */
  reason: string;
  /** Your own number of a command; what answers it carries the same */
  id?: number;
}

/** Tokens as the provider counts them; `estimated` when the run ended before it told. */
export interface Usage {
  /** Tokens that the model read */
  input_tokens: number;
  /** Tokens that the model wrote */
  output_tokens: number;
  /** Those of the input that the provider had read before */
  cached_tokens: number;
  /** In the currency of the provider's prices; null when they are not known */
  cost: number | null;
  /** The run ended before the provider told; the numbers are estimates */
  estimated: boolean;
}

/** The conversation is open. `expires_at` is when the credentials end, milliseconds; null for never. */
export interface Welcome {
  /** What this frame is */
  t: "welcome";
  /** The connection, as the log names it */
  conn: string;
  /** Who you are here */
  user: string;
  /** Which server it is */
  node: string;
  /** When to expect a ping */
  heartbeat: Heartbeat;
  /** When the credentials end, in milliseconds since the epoch; null for never */
  expires_at: number | null;
  /** What is allowed on this connection */
  limits: Limits;
  /** How each subscription of `resume` goes on */
  resumed: Array<Resumed>;
  /** Your own number of a command; what answers it carries the same */
  id?: number;
}

/** What a client says. */
export type ClientFrame =
  | Connect
  | Subscribe
  | Unsubscribe
  | Ack
  | Nack
  | History
  | Call
  | Auth
  | Presence
  | Ping
  | Pong;

/** What the server itself tells: `type` says which `data` it has. */
export type KnownEvent =
  | QueuedEvent
  | StartedEvent
  | RestartedEvent
  | TokenEvent
  | ReasoningEvent
  | SnapshotEvent
  | ProgressEvent
  | CompletedEvent
  | FailedEvent
  | CancelledEvent
  | ToolStartedEvent
  | ToolProgressEvent
  | ToolCompletedEvent
  | ToolFailedEvent
  | ApprovalRequestedEvent
  | ApprovalResolvedEvent
  | ApprovalExpiredEvent
  | MessageCreatedEvent
  | MessageUpdatedEvent
  | MessageDeletedEvent
  | SessionCreatedEvent
  | SessionUpdatedEvent
  | SessionDeletedEvent
  | AgentCreatedEvent
  | AgentUpdatedEvent
  | AgentDeletedEvent
  | PresenceJoinedEvent
  | PresenceLeftEvent
  | PresenceTypingEvent
  | McpServerStatusEvent
  | NotificationEvent;

/** What the server says. */
export type ServerFrame =
  | Welcome
  | Subscribed
  | Live
  | EpochChanged
  | GapFrame
  | Reply
  | ErrorFrame
  | ServerPing
  | ServerPong
  | AuthExpiring
  | Unsubscribed
  | Drain
  | Bye
  | QueuedEvent
  | StartedEvent
  | RestartedEvent
  | TokenEvent
  | ReasoningEvent
  | SnapshotEvent
  | ProgressEvent
  | CompletedEvent
  | FailedEvent
  | CancelledEvent
  | ToolStartedEvent
  | ToolProgressEvent
  | ToolCompletedEvent
  | ToolFailedEvent
  | ApprovalRequestedEvent
  | ApprovalResolvedEvent
  | ApprovalExpiredEvent
  | MessageCreatedEvent
  | MessageUpdatedEvent
  | MessageDeletedEvent
  | SessionCreatedEvent
  | SessionUpdatedEvent
  | SessionDeletedEvent
  | AgentCreatedEvent
  | AgentUpdatedEvent
  | AgentDeletedEvent
  | PresenceJoinedEvent
  | PresenceLeftEvent
  | PresenceTypingEvent
  | McpServerStatusEvent
  | NotificationEvent
  | ApplicationEvent;

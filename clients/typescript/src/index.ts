export { RealtimeClient, type HistoryPage, type Present, type RealtimeOptions } from "./realtime.ts";
export { AgentError, type ServerOptions, type Token } from "./server.ts";
export type { ChannelNotice, ConnectionNotice, SubscribeOptions } from "./notices.ts";
export { execute, followExecution, type ExecuteRequest, type StreamOptions } from "./sse.ts";
export { Subscription, type EventOf } from "./subscription.ts";
export type * from "./types.ts";

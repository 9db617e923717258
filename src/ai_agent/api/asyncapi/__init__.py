"""The AsyncAPI document of the real-time protocol, made from its frames and events."""

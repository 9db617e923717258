"""MCP servers as a client sees them: the protocol, its two transports, and the connections that are kept open.

A client of our own, because what it costs and where it may go is bounded here: the official one takes 1.2 s and 60 MB
to import, makes every answer whole in memory, and lets a server that dies cancel a task that is not its own.
"""

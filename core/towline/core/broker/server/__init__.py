"""The broker server: callers, their calls through tunnels, the platform behind it, and its own pages."""

"""Schemathesis against the real server: whatever it sends, all its checks must hold."""

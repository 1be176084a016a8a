"""Talking to what runs inside a machine: its agent and its console."""

"""Readers of the event stream: the live view, and the files that a run leaves."""

"""Streams that are read in two ways: smuggling, confusion, and what borders on it. `policy.TEXT` says what is public; each case says
what comes of its requests. `seen.json` holds what servers make of them with nobody between (`python -m tests.l7.survey`)."""

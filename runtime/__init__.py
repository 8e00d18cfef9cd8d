"""Loads, populates, attaches and queries compiled policies. Imports neither llvmlite nor lark."""

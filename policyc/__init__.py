"""policyc: a compiler from network policy to eBPF."""

__version__ = "0.1.0"

"""The compiler's passes, one a file; `policyc.ir.pipeline` says in which order they run."""

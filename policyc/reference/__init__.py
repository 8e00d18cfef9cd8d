"""The reference evaluator: docs/semantics.md, sections 1 to 3 and 7, slow and obvious. It shares no code with the compiler."""

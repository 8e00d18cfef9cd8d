"""The grammar: text to syntax tree with exact spans, and the formatter."""

"""The compiler's intermediate representations and the passes between them."""

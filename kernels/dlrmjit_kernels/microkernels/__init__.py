"""What is emitted: one module per micro-kernel, with its specification, emitter and contract."""

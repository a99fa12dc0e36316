"""Scripts that run in the environments of other runtimes. Only our own imports haste-edge, and none another."""

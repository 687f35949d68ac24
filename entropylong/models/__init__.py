"""The causal LM and the encoder behind small typed classes; preparation once a node, one copy a worker."""

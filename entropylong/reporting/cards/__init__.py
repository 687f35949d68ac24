"""Cards for what is published: of the sequences, and of a model that was trained on them."""

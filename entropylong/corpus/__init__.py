"""Sources, document ids, chunking."""

"""Stage 2: query windows, vectors, the index and the search."""

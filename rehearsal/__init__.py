"""`make rehearsal`: one workspace grown over a generated corpus, and how the cost of each stage grows with it."""

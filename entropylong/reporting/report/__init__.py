"""`entropylong report`: one HTML file about a workspace, for people and without a network."""

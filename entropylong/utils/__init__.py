"""Small helpers without Spark and without a domain."""

"""The Spark session, and the room that it has."""

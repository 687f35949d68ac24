"""What every Spark stage is made of: the contract of a stage, its context, its UDFs, what it counts."""

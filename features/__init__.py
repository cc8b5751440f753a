"""What a feature means: definitions, verdicts, state rows and history, with no Spark, Kafka or Ray."""

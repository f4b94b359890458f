"""The configuration and policy files: read, validated, and reported with all problems at once."""

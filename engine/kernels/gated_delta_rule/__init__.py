"""The recurrence of a DeltaNet layer."""

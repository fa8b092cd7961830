"""State as tables in the warehouse that has the model."""

"""Planning: from scores and a recipe to what goes and what that leaves. Writes to no model."""

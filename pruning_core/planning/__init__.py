"""Planning: from scores and a recipe to what goes and what that leaves. Touches no model."""

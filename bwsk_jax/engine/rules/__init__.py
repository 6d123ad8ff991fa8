"""What is known of primitives, as tables: inverses, their exactness, bounds on values, and costs."""

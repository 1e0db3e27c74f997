"""`make mutate`: small changes to the pure core, and which of them the fast tests notice."""

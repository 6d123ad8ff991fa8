"""What several files of tests share: models, inputs, programs, servers, and ways to compare."""

"""What is kept on disk between runs and during them: decompositions, remembered facts of files, scratch files."""

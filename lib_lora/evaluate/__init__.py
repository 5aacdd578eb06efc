"""What needs a generator and many runs: grids of pictures, the block analyser, advice on strengths, saved prompts."""
